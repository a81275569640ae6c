package gateway

import (
	"context"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
)

// Register is a generated function of a service: mcnsv1.RegisterZoneServiceHandler. It serves REST by calling
// the connection, so that every interceptor runs. The generated RegisterXHandlerServer skips them and does not
// fit this type.
type Register func(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error

var _ http.Handler
