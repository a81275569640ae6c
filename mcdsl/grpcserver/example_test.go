package grpcserver_test

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/grpcserver"
)

// A server that forgot a rule does not start and says which.
func ExampleNew() {
	_, err := grpcserver.New(grpcserver.Config{
		Service:  "sample",
		Rules:    auth.Map{"/mcias.v1.Key/List": auth.Authenticated(), "/mcias.v1.Key/Rotate": auth.Policy("keys:rotate")},
		Register: func(r grpc.ServiceRegistrar) { mciasv1.RegisterKeyServer(r, &sample{}) },
	})
	fmt.Println(err)
	// Output: grpcserver: access rules: method /mcias.v1.Key/Compromise has no rule
}

// The in-process connection passes the same rules as the network.
func ExampleServer_InProcess() {
	srv, err := grpcserver.New(grpcserver.Config{
		Service: "sample",
		Rules: auth.Map{"/mcias.v1.Key/List": auth.Authenticated(), "/mcias.v1.Key/Rotate": auth.Policy("keys:rotate"),
			"/mcias.v1.Key/Compromise": auth.Local()},
		Register: func(r grpc.ServiceRegistrar) { mciasv1.RegisterKeyServer(r, &sample{}) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := srv.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	_, err = mciasv1.NewKeyClient(srv.InProcess()).List(ctx, &mciasv1.KeyListRequest{})
	fmt.Println(err)
	fmt.Println(srv.Stop(ctx))
	// Output:
	// rpc error: code = Unauthenticated desc = not logged in
	// <nil>
}
