module metacircular.net/mc-proxy

go 1.26

require (
	metacircular.net/mcdsl v0.0.0
	metacircular.net/mc-proxy/api v0.0.0
)

replace (
	metacircular.net/mcdsl => ../mcdsl
	metacircular.net/mcias/api => ../mcias/api
	metacircular.net/mc-proxy/api => ./api
)
