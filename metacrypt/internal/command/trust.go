package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

func trustCommand(e *cli.Env) *cobra.Command {
	var pem bool
	show := &cobra.Command{Use: "show", Short: "Print the root's fingerprint", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withPublic(cmd.Context(), e, func(conn *grpc.ClientConn) error {
				res, err := metacryptv1.NewPKIClient(conn).GetRoot(cmd.Context(), &metacryptv1.GetRootRequest{})
				if err != nil {
					return err
				}
				return e.Emit(res, func(w io.Writer) {
					if pem {
						_, _ = io.WriteString(w, res.GetPem())
						return
					}
					_, _ = fmt.Fprintf(w, "sha256:%s\n", res.GetFingerprint())
				})
			})
		}}
	show.Flags().BoolVar(&pem, "pem", false, "print the certificate instead")
	return group("trust", "The root that clients trust", show)
}
