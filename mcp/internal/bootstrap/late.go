package bootstrap

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	"metacircular.net/mcdsl/tlsutil"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/oci"
)

// outside is how a client elsewhere sees the platform: by name, through MC-Proxy, with the root alone as trust.
type outside struct {
	hosts *hostmap.Map
	roots *tlsutil.Roots
	mcias *grpc.ClientConn
	key   *auth.ServiceKey
}

func (u *Up) outside() (*outside, error) {
	roots, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: u.layout.caFile()})
	if err != nil {
		return nil, err
	}
	o := &outside{hosts: hostmap.Open(u.layout.hostsFile()), roots: roots, key: auth.OpenServiceKey(u.nodeKeyFile(), u.settings.URL("mcias"))}
	o.mcias, err = auth.Dial(auth.DialConfig{Target: u.settings.GRPC("mcias"), Hosts: o.hosts, Roots: roots})
	return o, err
}

// startRegistry brings MCR up and gives it the core's images, so that other nodes find them there.
func (u *Up) startRegistry(ctx context.Context) (bool, string, error) {
	changed, err := u.deployCore(ctx, "mcr")
	if err != nil {
		return false, "", err
	}
	o, err := u.outside()
	if err != nil {
		return changed, "", err
	}
	defer o.mcias.Close()
	pool, err := u.roots()
	if err != nil {
		return changed, "", err
	}
	if err := u.handshakes(ctx, []string{"mcias", "mcr"}, pool); err != nil {
		return changed, "", err
	}
	store, err := oci.Open(u.layout.Path("mcp-agent", "images"))
	if err != nil {
		return changed, "", err
	}
	tokens := auth.Tokens(o.key, o.mcias, "mcr")
	reg := oci.Registry{
		Host:      net.JoinHostPort(u.settings.Host("mcr"), strconv.Itoa(u.settings.HTTPSPort)),
		Transport: o.roots.Transport(o.hosts.DialContext),
		Auth: func(ctx context.Context) (authn.Authenticator, error) {
			token, err := tokens.Token(ctx)
			if err != nil {
				return nil, fmt.Errorf("token for the registry: %w", err)
			}
			return authn.FromConfig(authn.AuthConfig{RegistryToken: token}), nil // a platform token needs no realm
		},
	}
	pushed := 0
	for _, svc := range coreOrder {
		digest, _, err := store.Resolve(u.image(svc))
		if err != nil {
			return changed, "", err
		}
		var there string
		err = await(ctx, "mcr", 30*time.Second, func(ctx context.Context) (err error) {
			there, _, err = reg.Resolve(ctx, u.image(svc))
			return err
		})
		if err != nil {
			return changed, "", err
		}
		if there == digest {
			continue
		}
		if err := reg.Push(ctx, store, digest, u.image(svc)); err != nil {
			return changed, "", err
		}
		pushed++
	}
	return changed || pushed > 0, fmt.Sprintf("%d of %d core images pushed", pushed, len(coreOrder)), nil
}

// startMaster deploys the control plane's door.
func (u *Up) startMaster(ctx context.Context) (bool, string, error) {
	changed, err := u.deployCore(ctx, "mcp")
	if err != nil {
		return changed, "", err
	}
	conn, err := u.sockets.dial("mcp")
	if err != nil {
		return changed, "", err
	}
	var reg *mcpv1.RegisterNodeResponse
	err = await(ctx, "mcp", 30*time.Second, func(ctx context.Context) (err error) {
		reg, err = mcpv1.NewNodesClient(conn).RegisterNode(ctx, &mcpv1.RegisterNodeRequest{Name: u.settings.Node})
		return err
	})
	if err != nil {
		return changed, "", fmt.Errorf("register this node: %w", err)
	}
	changed = changed || reg.GetCreated()
	pool, err := u.roots()
	if err != nil {
		return changed, "", err
	}
	return changed, "node " + u.settings.Node, u.handshakes(ctx, []string{"mcp"}, pool)
}

// deployFirstApp deploys MCAT, by the path every app takes.
func (u *Up) deployFirstApp(ctx context.Context) (bool, string, error) {
	changed, err := u.deployCore(ctx, "mcat")
	return changed, u.settings.URL("mcat"), err
}

// prove looks at the result as a stranger would: a name in DNS, its chain, a login, and a login that must fail.
func (u *Up) prove(ctx context.Context) (bool, string, error) {
	pool, err := u.roots()
	if err != nil {
		return false, "", err
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(u.settings.DNSPort)))
	}}
	host := u.settings.Host("mcat")
	err = await(ctx, "the name "+host+" in MCNS", 90*time.Second, func(ctx context.Context) error {
		addrs, err := resolver.LookupNetIP(ctx, "ip4", host+".")
		if err != nil || len(addrs) == 0 {
			return fault.New(fault.Unavailable, "resolve %s", host).Wrap(err)
		}
		return nil
	})
	if err != nil {
		return false, "", err
	}
	if err := u.handshakes(ctx, []string{"mcat", "mcias", "mcp"}, pool); err != nil {
		return false, "", err
	}
	o, err := u.outside()
	if err != nil {
		return false, "", err
	}
	defer o.mcias.Close()
	saved, err := u.logIn(ctx, o)
	if err != nil {
		return false, "", err
	}
	_, err = mciasv1.NewAuthClient(o.mcias).Login(ctx, &mciasv1.LoginRequest{Username: "nobody-here", Password: "wrong on purpose"})
	if status.Code(err) != codes.Unauthenticated {
		return false, "", fault.New(fault.Internal, "a wrong login was not refused as such: %v", err)
	}
	return saved, "name, chain, login, refused login", nil
}

// logIn proves the administrator's login and, with --yes, keeps it for the command lines. A saved one that still mints is
// left alone. Where the stored password opens the account no more, the node's own account stands in.
func (u *Up) logIn(ctx context.Context, o *outside) (bool, error) {
	env := cli.NewEnv("mcp")
	env.Root, env.Clock = u.layout.Root, clock.System()
	if _, err := os.Stat(filepath.Join(u.layout.Root, "login.json")); err == nil {
		if _, err := env.Token(ctx, "mcp"); err == nil {
			return false, nil
		}
	}
	creds, _, err := u.layout.credentials()
	if err != nil {
		return false, err
	}
	if u.opts.Yes {
		_, err = env.LogIn(ctx, cli.LoginRequest{Username: creds.Admin.Username, Password: secret.FromString(creds.Admin.Password)})
	} else {
		_, err = mciasv1.NewAuthClient(o.mcias).Login(ctx, &mciasv1.LoginRequest{Username: creds.Admin.Username, Password: creds.Admin.Password})
	}
	if err == nil {
		return u.opts.Yes, nil
	}
	if f := fault.From(err); f == nil || f.Kind != fault.Unauthenticated {
		return false, fmt.Errorf("log in as %s: %w", creds.Admin.Username, err)
	}
	if _, terr := auth.Tokens(o.key, o.mcias, "mcp").Token(ctx); terr != nil {
		return false, fmt.Errorf("neither the administrator's stored password nor the node's key opens MCIAS: %w", terr)
	}
	return false, nil
}
