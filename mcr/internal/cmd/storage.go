package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
)

// pollEvery is how often a waiting command asks how a run goes.
const pollEvery = 500 * time.Millisecond

func gcCommand(e *cli.Env) *cobra.Command {
	var wait, status bool
	c := &cobra.Command{Use: "gc", Short: "Collect what nothing needs any more, beside all traffic", Args: cobra.NoArgs,
		Example: "  mcr gc --wait\n  mcr gc --status"}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			client := mcrv1.NewStorageServiceClient(conn)
			var run *mcrv1.GCRun
			if status {
				res, err := client.GetGC(cmd.Context(), &mcrv1.StorageGetGCRequest{})
				if err != nil {
					return err
				}
				run = res.Run
			} else {
				res, err := client.StartGC(cmd.Context(), &mcrv1.StorageStartGCRequest{})
				if err != nil {
					return err
				}
				run = res.Run
			}
			for wait && run.State == "running" {
				if err := pause(cmd.Context()); err != nil {
					return err
				}
				res, err := client.GetGC(cmd.Context(), &mcrv1.StorageGetGCRequest{Id: run.Id})
				if err != nil {
					return err
				}
				run = res.Run
			}
			err := e.Emit(run, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Collection %d: %s, stage %s; %d manifests, %d links, %d blobs, %d uploads, %d orphans removed; %s freed.\n", run.Id, run.State, run.Stage,
					run.ManifestsExpired, run.LinksRemoved, run.BlobsRemoved, run.UploadsExpired, run.OrphansRemoved, size(run.BytesFreed))
			})
			if err == nil && run.State == "failed" {
				return fault.New(fault.Precondition, "collection %d failed: %s", run.Id, run.Error)
			}
			return err
		})
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	c.Flags().BoolVar(&status, "status", false, "show the last run instead of starting one")
	return c
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollEvery):
		return nil
	}
}

func verifyCommand(e *cli.Env) *cobra.Command {
	var quick, status, background bool
	c := &cobra.Command{Use: "verify", Short: "Read every blob and manifest again and put damaged ones aside", Args: cobra.NoArgs,
		Long:    "Read every blob and manifest again and put damaged ones aside.\n\nExit codes: 0 all is whole, 1 something was damaged.",
		Example: "  mcr verify\n  mcr verify --quick\n  mcr verify --status"}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			client := mcrv1.NewStorageServiceClient(conn)
			var run *mcrv1.VerifyRun
			if status {
				res, err := client.GetVerify(cmd.Context(), &mcrv1.StorageGetVerifyRequest{})
				if err != nil {
					return err
				}
				run = res.Run
			} else {
				res, err := client.StartVerify(cmd.Context(), &mcrv1.StorageStartVerifyRequest{Quick: quick})
				if err != nil {
					return err
				}
				run = res.Run
			}
			for !status && !background && run.State == "running" {
				if err := pause(cmd.Context()); err != nil {
					return err
				}
				res, err := client.GetVerify(cmd.Context(), &mcrv1.StorageGetVerifyRequest{Id: run.Id})
				if err != nil {
					return err
				}
				run = res.Run
			}
			err := e.Emit(run, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Verification %d: %s; %d blobs (%s), %d manifests; %d damaged.\n", run.Id, run.State, run.BlobsChecked, size(run.BytesChecked), run.ManifestsChecked, len(run.Quarantined))
				for _, d := range run.Quarantined {
					_, _ = fmt.Fprintf(w, "  damaged  %s\n", d)
				}
			})
			switch {
			case err != nil:
				return err
			case run.State == "failed":
				return fault.New(fault.Precondition, "verification %d failed: %s", run.Id, run.Error)
			case len(run.Quarantined) > 0:
				return cli.Exit(1)
			}
			return nil
		})
	}
	c.Flags().BoolVar(&quick, "quick", false, "only compare presence and length")
	c.Flags().BoolVar(&status, "status", false, "show the last run instead of starting one")
	c.Flags().BoolVar(&background, "background", false, "start it and don't wait")
	return c
}

func uploadCommand(e *cli.Env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List open uploads", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				all := &mcrv1.StorageListUploadsResponse{}
				err := pages(func(token string) (string, error) {
					res, err := mcrv1.NewStorageServiceClient(conn).ListUploads(cmd.Context(), &mcrv1.StorageListUploadsRequest{PageToken: token})
					if err != nil {
						return "", err
					}
					all.Uploads = append(all.Uploads, res.Uploads...)
					return res.NextPageToken, nil
				})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"REFERENCE", "REPOSITORY", "BY", ">BYTES", "BEGUN", "LAST USED"}, Empty: "No upload is open."}
				for _, u := range all.Uploads {
					t.Row(u.Reference, u.Repository, u.Owner, size(u.Offset), ago(e, u.Started), ago(e, u.Touched))
				}
				return e.EmitTable(all, t)
			})
		}}
	stop := &cobra.Command{Use: "cancel REFERENCE", Short: "Drop an open upload", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				res, err := mcrv1.NewStorageServiceClient(conn).CancelUpload(cmd.Context(), &mcrv1.StorageCancelUploadRequest{Reference: args[0]})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Dropped upload %s.\n", args[0]) })
			})
		}}
	return noun("upload", "See and drop open uploads", list, stop)
}

func usageCommand(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "usage", Short: "Show what the registry holds and how full its disk is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				u, err := mcrv1.NewStorageServiceClient(conn).Usage(cmd.Context(), &mcrv1.StorageUsageRequest{})
				if err != nil {
					return err
				}
				return e.Emit(u, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "repositories  %d\ntags          %d\nmanifests     %d\nblobs         %d, %s\nshared        %s saved\ndamaged       %d\nuploads       %d open\ndisk          %s free of %s\n",
						u.Repositories, u.Tags, u.Manifests, u.Blobs, size(u.BlobBytes), size(max(0, u.LinkedBytes-u.BlobBytes)), u.Quarantined, u.Uploads, size(u.DiskFree), size(u.DiskTotal))
				})
			})
		}}
}

func eventsCommand(e *cli.Env) *cobra.Command {
	req := &mcrv1.EventWatchRequest{}
	c := &cobra.Command{Use: "events", Short: "Follow what changes, until interrupted", Args: cobra.NoArgs,
		Example: "  mcr events\n  mcr events --where 'team/**' --kind push --json"}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			stream, err := mcrv1.NewEventServiceClient(conn).Watch(cmd.Context(), req)
			if err != nil {
				return err
			}
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if e.JSON {
					if err := e.EmitLine(m); err != nil {
						return err
					}
					continue
				}
				if ev := m.GetEvent(); ev != nil {
					_, _ = fmt.Fprintf(e.Out, "%s  %-10s  %s %s %s  %s\n", ev.At.AsTime().Format(time.RFC3339), ev.Kind, ev.Repository, ev.Tag, middle(ev.Digest), ev.By)
				}
			}
		})
	}
	c.Flags().Bool("follow", true, "go on with new events; always so")
	c.Flags().StringSliceVar(&req.Kinds, "kind", nil, "push, tag, untag, delete, restore, quarantine, gc")
	c.Flags().StringSliceVar(&req.Repositories, "where", nil, "repository globs")
	return c
}
