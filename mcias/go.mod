module metacircular.net/mcias

go 1.26

require (
	metacircular.net/mcdsl v0.0.0
	metacircular.net/mcias/api v0.0.0
)

replace (
	metacircular.net/mcdsl => ../mcdsl
	metacircular.net/mcias/api => ./api
)
