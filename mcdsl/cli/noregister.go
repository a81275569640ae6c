package cli

import "google.golang.org/grpc"

// noRegister is for servers without gRPC services of their own: health and reflection are there all the same.
func noRegister(grpc.ServiceRegistrar) {}
