package dialin

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// WithToken returns a context whose calls to a node act for the owner of the token.
func WithToken(ctx context.Context, token, requestID string) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	if requestID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, requestIDKey, requestID)
	}
	return ctx
}
