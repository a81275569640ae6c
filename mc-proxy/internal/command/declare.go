package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

// maxDeclaration bounds a file of routes.
const maxDeclaration = 16 << 20

// document is a file of routes: what export writes and apply reads.
type document struct {
	Routes []json.RawMessage `json:"routes"`
}

func readDocument(file string, stdin io.Reader) ([]*mcproxyv1.RouteSpec, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.New(fault.Invalid, "cannot read %s", file).Wrap(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxDeclaration))
	if err != nil {
		return nil, err
	}
	var doc document
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, fault.New(fault.Invalid, "%s is no document of routes", file).WithNext("mc-proxy export shows one").Wrap(err)
	}
	var out []*mcproxyv1.RouteSpec
	for i, raw := range doc.Routes {
		s := &mcproxyv1.RouteSpec{}
		if err := protojson.Unmarshal(raw, s); err != nil {
			return nil, fault.New(fault.Invalid, "%s: routes[%d]", file, i).Wrap(err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (c *client) apply() *cobra.Command {
	var owner string
	var dry, prune, takeOver bool
	cmd := &cobra.Command{Use: "apply FILE", Short: "Make an owner's routes what a file states; a dry run exits 1 when there are differences", Args: cobra.ExactArgs(1),
		Example: "  mc-proxy export --owner operator > routes.json\n  mc-proxy apply --dry-run --prune routes.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			specs, err := readDocument(args[0], c.e.In)
			if err != nil {
				return err
			}
			cl, err := c.admin()
			if err != nil {
				return err
			}
			resp, err := cl.Apply(cmd.Context(), &mcproxyv1.ApplyRequest{Owner: owner, Routes: specs, DryRun: dry, Prune: prune, TakeOver: takeOver})
			if err != nil {
				return err
			}
			if err := c.e.Emit(resp, func(w io.Writer) {
				for _, ch := range resp.GetChanges() {
					_, _ = fmt.Fprintf(w, "%s %s\n", ch.GetAction(), ch.GetRoute())
					for _, f := range ch.GetFields() {
						_, _ = fmt.Fprintf(w, "  %s\n", f)
					}
				}
				if len(resp.GetChanges()) == 0 {
					_, _ = fmt.Fprintln(w, "nothing to do")
				}
			}); err != nil {
				return err
			}
			if dry && len(resp.GetChanges()) > 0 {
				return cli.Exit(1)
			}
			return nil
		}}
	cmd.Flags().StringVar(&owner, "owner", "operator", "whose routes the file states")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show the differences")
	cmd.Flags().BoolVar(&prune, "prune", false, "remove the owner's routes that the file does not state")
	cmd.Flags().BoolVar(&takeOver, "take-over", false, "write over other owners' routes")
	return cmd
}

func (c *client) export() *cobra.Command {
	var owner string
	cmd := &cobra.Command{Use: "export", Short: "Print routes as apply takes them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.admin()
			if err != nil {
				return err
			}
			resp, err := cl.Export(cmd.Context(), &mcproxyv1.ExportRequest{Owner: owner})
			if err != nil {
				return err
			}
			doc := document{Routes: []json.RawMessage{}}
			for _, s := range resp.GetRoutes() {
				raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(s)
				if err != nil {
					return err
				}
				doc.Routes = append(doc.Routes, raw)
			}
			data, err := json.MarshalIndent(doc, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.e.Out, "%s\n", data)
			return err
		}}
	cmd.Flags().StringVar(&owner, "owner", "", "only of this owner")
	return cmd
}

func (c *client) reload() *cobra.Command {
	return &cobra.Command{Use: "reload", Short: "Read the configuration again, as SIGHUP does", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.admin()
			if err != nil {
				return err
			}
			resp, err := cl.Reload(cmd.Context(), &mcproxyv1.ReloadRequest{})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) {
				for _, x := range resp.GetChanges() {
					_, _ = fmt.Fprintln(w, x)
				}
				for _, x := range resp.GetRestartNeeded() {
					_, _ = fmt.Fprintf(w, "%s takes effect at the next start\n", x)
				}
				if len(resp.GetChanges()) == 0 {
					_, _ = fmt.Fprintln(w, "nothing changed")
				}
			})
		}}
}
