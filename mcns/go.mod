module metacircular.net/mcns

go 1.26

require (
	metacircular.net/mcdsl v0.0.0
	metacircular.net/mcns/api v0.0.0
)

replace (
	metacircular.net/mcdsl => ../mcdsl
	metacircular.net/mcias/api => ../mcias/api
	metacircular.net/mcns/api => ./api
)
