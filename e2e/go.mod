module metacircular.net/e2e

go 1.26
