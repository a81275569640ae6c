package command

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

func kvCommand(e *cli.Env) *cobra.Command {
	return group("kv", "Secrets with versions", kvPut(e), kvGet(e), kvList(e), kvDelete(e))
}

func kvPut(e *cli.Env) *cobra.Command {
	var files []string
	var cas int64
	c := &cobra.Command{Use: "put PATH", Short: "Write a new version of a secret", Args: cobra.ExactArgs(1),
		Long:    "Write a new version of a secret. Values come from files, from standard input or from a prompt, never from the command line, where others could read them.",
		Example: "  metacrypt kv put apps/blog/db --file password=./pw\n  metacrypt kv put apps/blog/db              # asks for the field \"value\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &metacryptv1.KVPutRequest{Path: args[0], Fields: map[string][]byte{}}
			if len(files) == 0 {
				files = []string{"value="}
			}
			for _, f := range files {
				field, file, ok := strings.Cut(f, "=")
				if !ok || field == "" {
					return fault.Field1("file", "%q is not FIELD=FILE", f)
				}
				v, err := e.Secret(file, "--file "+field+"=FILE", "Value of "+field)
				if err != nil {
					return err
				}
				req.Fields[field] = v.Reveal()
			}
			if cas >= 0 {
				n := uint32(min(cas, 1<<31)) //nolint:gosec // bounded
				req.Cas = &n
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewKVClient(conn).Put(cmd.Context(), req)
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s is at version %d.\n", args[0], res.GetVersion()) })
			})
		}}
	c.Flags().StringArrayVar(&files, "file", nil, "FIELD=FILE; - is standard input; may be repeated")
	c.Flags().Int64Var(&cas, "cas", -1, "only if the secret is at this version; 0 = only if it is new")
	return c
}

func kvGet(e *cli.Env) *cobra.Command {
	var version uint32
	var field string
	c := &cobra.Command{Use: "get PATH", Short: "Read a secret", Args: cobra.ExactArgs(1),
		Example: "  metacrypt kv get apps/blog/db --field password",
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewKVClient(conn).Get(cmd.Context(), &metacryptv1.KVGetRequest{Path: args[0], Version: version})
				if err != nil {
					return err
				}
				if field != "" {
					v, ok := res.GetFields()[field]
					if !ok {
						return fault.New(fault.NotFound, "the secret has no field %q", field)
					}
					_, err := e.Out.Write(v)
					return err
				}
				return e.Emit(res, func(w io.Writer) {
					names := make([]string, 0, len(res.GetFields()))
					for k := range res.GetFields() {
						names = append(names, k)
					}
					slices.Sort(names)
					for _, k := range names {
						_, _ = fmt.Fprintf(w, "%s: %s\n", k, res.GetFields()[k])
					}
				})
			})
		}}
	c.Flags().Uint32Var(&version, "version", 0, "version (default the newest)")
	c.Flags().StringVar(&field, "field", "", "print the bytes of this field alone")
	return c
}

func kvList(e *cli.Env) *cobra.Command {
	req := &metacryptv1.KVListRequest{}
	c := &cobra.Command{Use: "list [PREFIX]", Aliases: []string{"ls"}, Short: "List secrets you may list", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Prefix = args[0]
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewKVClient(conn).List(cmd.Context(), req)
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"PATH"}, Empty: "No secrets there. next: metacrypt kv put PATH"}
				for _, p := range res.GetPaths() {
					t.Row(p)
				}
				if res.GetNextPageToken() != "" {
					t.Foot = "more: --page '" + res.GetNextPageToken() + "'"
				}
				return e.EmitTable(res, t)
			})
		}}
	c.Flags().BoolVar(&req.Recursive, "recursive", false, "everything below")
	c.Flags().StringVar(&req.PageToken, "page", "", "token of the next page")
	return c
}

func kvDelete(e *cli.Env) *cobra.Command {
	var versions []uint
	c := &cobra.Command{Use: "delete PATH", Aliases: []string{"rm"}, Short: "Hide the newest version, or those named", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.Confirm("Readers of " + args[0] + " will not find it any more"); err != nil {
				return err
			}
			req := &metacryptv1.KVDeleteRequest{Path: args[0]}
			for _, v := range versions {
				req.Versions = append(req.Versions, uint32(min(v, 1<<31))) //nolint:gosec // bounded
			}
			return with(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewKVClient(conn).Delete(cmd.Context(), req)
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Deleted %s.\n", args[0]) })
			})
		}}
	c.Flags().UintSliceVar(&versions, "version", nil, "versions to hide")
	return c
}
