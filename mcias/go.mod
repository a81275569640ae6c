module metacircular.net/mcias

go 1.26.0

require (
	metacircular.net/mcdsl v0.0.0
	metacircular.net/mcias/api v0.0.0
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/pelletier/go-toml/v2 v2.4.3 // indirect
	golang.org/x/crypto v0.59.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	golang.org/x/text v0.44.0 // indirect
)

replace (
	metacircular.net/mcdsl => ../mcdsl
	metacircular.net/mcias/api => ./api
)
