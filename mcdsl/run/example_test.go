package run_test

import (
	"context"
	"fmt"

	"metacircular.net/mcdsl/run"
)

func ExampleGroup() {
	ctx, cancel := context.WithCancel(context.Background())
	store := run.Component{
		Name:  "store",
		Start: func(context.Context) error { fmt.Println("store opens"); return nil },
		Stop:  func(context.Context) error { fmt.Println("store closes"); return nil },
	}
	worker := run.Background("worker", func(ctx context.Context) error {
		<-ctx.Done() // works until told to stop
		fmt.Println("worker leaves")
		return nil
	})
	err := run.Group(ctx, run.Options{Ready: cancel}, store, worker)
	fmt.Println(err)
	// Output:
	// store opens
	// worker leaves
	// store closes
	// <nil>
}
