module metacircular.net/mcp

go 1.26

require (
	metacircular.net/mcdsl v0.0.0
	metacircular.net/mcp/api v0.0.0
)

replace (
	metacircular.net/mcdsl => ../mcdsl
	metacircular.net/mcias/api => ../mcias/api
	metacircular.net/metacrypt/api => ../metacrypt/api
	metacircular.net/mcr/api => ../mcr/api
	metacircular.net/mc-proxy/api => ../mc-proxy/api
	metacircular.net/mcns/api => ../mcns/api
	metacircular.net/mcp/api => ./api
)
