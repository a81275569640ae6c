package cli_test

// This file is the worked example that services copy: one RPC with REST, one page, a database, a command.
// The contract is borrowed from MCIAS (a list of keys), since a library has none of its own.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing/fstest"

	"github.com/go-chi/chi/v5"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/web"
)

// Config is mcex.toml: the shared sections and the service's own.
type Config struct {
	Server   config.Server   `toml:"server"`
	Database config.Database `toml:"database"`
	MCIAS    config.MCIAS    `toml:"mcias"`
	Log      config.Log      `toml:"log"`
	Backup   config.Backup   `toml:"backup"`
	Web      config.Web      `toml:"web"`
	Keys     Keys            `toml:"keys"`
}

// Keys is [keys].
type Keys struct {
	Prefix string `toml:"prefix" default:"key" reload:"true"`
}

// rules has one row per method, route and page; a missing or a superfluous one stops the server.
func rules() auth.Map {
	return auth.Map{
		mciasv1.Key_List_FullMethodName:       auth.Authenticated(),
		mciasv1.Key_Rotate_FullMethodName:     auth.Roles(auth.RoleAdmin).Audited(nil).Privileged(),
		mciasv1.Key_Compromise_FullMethodName: auth.Policy("keys:manage").Audited(nil).Privileged(),
		"HTTP GET /":                          auth.Authenticated(),
	}
}

// exampleService is what a service's package exports for its main.
func exampleService() cli.Service[Config] {
	return cli.Service[Config]{
		Name: "mcex", Short: "Lists keys.", Rules: rules(), Build: build, Commands: commands,
		Migrations: fstest.MapFS{"0001_key.sql": {Data: []byte(`CREATE TABLE key(kid TEXT PRIMARY KEY) STRICT;`)}},
	}
}

// build makes the parts. It reads top to bottom, and an error ends the start.
func build(ctx context.Context, cfg Config, b *cli.Builder) error {
	store, err := b.OpenDB(ctx)
	if err != nil {
		return err
	}
	keys := &keyServer{db: store}
	b.Health.Add(health.Check{Code: "keys", Title: "keys", Duty: true, Run: func(context.Context) health.Result { return health.OK("listed") }})
	b.Server.Register = func(r grpc.ServiceRegistrar) { mciasv1.RegisterKeyServer(r, keys) }
	b.Server.REST = []gateway.Register{mciasv1.RegisterKeyHandler}
	cli.OnReload(b, func(_ context.Context, cfg Config) error { return keys.setPrefix(cfg.Keys.Prefix) })
	_, err = b.Pages(web.Config{Routes: pages, Templates: fstest.MapFS{
		"keys.html": {Data: []byte(`{{define "content"}}<ul class="rows">{{range .Data.Keys}}<li><code>{{.Kid}}</code>{{badge .State}}</li>{{end}}</ul>{{end}}`)},
	}})
	if err != nil {
		return err
	}
	return keys.setPrefix(cfg.Keys.Prefix)
}

// pages are clients of the service's own gRPC: they get the verdict that everybody gets.
func pages(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
	keys := mciasv1.NewKeyClient(conn)
	r.Get("/", s.Page(func(w http.ResponseWriter, r *http.Request) error {
		res, err := keys.List(r.Context(), &mciasv1.KeyListRequest{})
		if err != nil {
			return err
		}
		return s.Render(w, r, "keys.html", web.Page{Title: "Keys", State: fmt.Sprintf("%d keys.", len(res.GetKeys())), Data: res})
	}))
}

// commands are the service's own verbs.
func commands(e *cli.Env, _ func() (Config, error)) []*cobra.Command {
	key := &cobra.Command{Use: "key", Short: "Keys"}
	key.AddCommand(&cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := e.Dial(cmd.Context(), "mcex")
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			res, err := mciasv1.NewKeyClient(conn).List(cmd.Context(), &mciasv1.KeyListRequest{})
			if err != nil {
				return fmt.Errorf("list keys: %w", err)
			}
			t := &cli.Table{Head: []string{"KEY", "STATE"}, Empty: "No keys yet."}
			for _, k := range res.GetKeys() {
				t.Row(k.GetKid(), k.GetState())
			}
			return e.EmitTable(res, t)
		}})
	return []*cobra.Command{key}
}

// keyServer is the implementation; a real one lives in internal/rpc.
type keyServer struct {
	mciasv1.UnimplementedKeyServer
	db     *db.DB
	prefix atomic.Pointer[string] // SIGHUP may change it
}

func (k *keyServer) setPrefix(p string) error { k.prefix.Store(&p); return nil }

// List implements the contract.
func (k *keyServer) List(ctx context.Context, _ *mciasv1.KeyListRequest) (*mciasv1.KeyListResponse, error) {
	res := &mciasv1.KeyListResponse{}
	err := k.db.Read(ctx, func(v *db.View) error {
		res.Keys = []*mciasv1.SigningKey{{Kid: *k.prefix.Load() + "-of-" + auth.From(ctx).Name, State: "active"}}
		return nil
	})
	return res, err
}

// Compromise implements the contract: a Policy method decides before it answers.
func (k *keyServer) Compromise(ctx context.Context, r *mciasv1.KeyCompromiseRequest) (*mciasv1.KeyCompromiseResponse, error) {
	ok := auth.From(ctx).HasTag("core")
	if err := auth.Decide(ctx, "keys:manage", r.GetKid(), ok, `rule "core-only"`); err != nil {
		return nil, err
	}
	return &mciasv1.KeyCompromiseResponse{Note: "gone"}, nil
}

func ExampleMain() {
	e := cli.NewEnv("mcex")
	e.Err = io.Discard
	// A service's main is: os.Exit(cli.Main(context.Background(), mcex.Service(), os.Args[1:]))
	fmt.Println(cli.Run(context.Background(), exampleService(), e, []string{"key", "lst"}))
	// Output: 2
}
