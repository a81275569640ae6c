package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mcdsl/fault"
	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

// startEdge brings up the two that everything else is reached through. MC-Proxy comes first: MCNS's own routes need it.
func (u *Up) startEdge(ctx context.Context) (bool, string, error) {
	changed, err := u.deployCore(ctx, "mc-proxy")
	if err != nil {
		return false, "", err
	}
	conn, err := u.sockets.dial("mc-proxy")
	if err != nil {
		return changed, "", err
	}
	admin := mcproxyv1.NewAdminServiceClient(conn)
	var st *mcproxyv1.GetStatusResponse
	err = await(ctx, "mc-proxy", 30*time.Second, func(ctx context.Context) (err error) {
		st, err = admin.GetStatus(ctx, &mcproxyv1.GetStatusRequest{})
		return err
	})
	if err != nil {
		return changed, "", err
	}
	for _, l := range st.GetListeners() {
		if errs := l.GetErrors(); len(errs) > 0 {
			return changed, "", fault.New(fault.Precondition, "MC-Proxy cannot listen: %s", strings.Join(errs, "; ")).WithNext("mc-proxy --root %s status", u.layout.Root)
		}
	}
	c, err := u.deployCore(ctx, "mcns")
	if err != nil {
		return changed, "", err
	}
	conn, err = u.sockets.dial("mcns")
	if err != nil {
		return changed, "", err
	}
	err = await(ctx, "mcns", 30*time.Second, func(ctx context.Context) error {
		_, err := mcnsv1.NewAdminServiceClient(conn).GetStatus(ctx, &mcnsv1.GetStatusRequest{})
		return err
	})
	return changed || c, fmt.Sprintf("ports %d, %d, %d; DNS %d", u.settings.HTTPSPort, u.settings.GRPCPort(), u.settings.HTTPPort(), u.settings.DNSPort), err
}

// makeZone makes the platform's zone and lets the node write its names there. The core's names match only grants that
// spell them out.
func (u *Up) makeZone(ctx context.Context) (bool, string, error) {
	conn, err := u.sockets.dial("mcns")
	if err != nil {
		return false, "", err
	}
	zones := mcnsv1.NewZoneServiceClient(conn)
	changed := false
	_, err = zones.GetZone(ctx, &mcnsv1.GetZoneRequest{Zone: u.settings.Domain})
	if status.Code(err) == codes.NotFound {
		_, err = zones.CreateZone(ctx, &mcnsv1.CreateZoneRequest{Name: u.settings.Domain, NameServers: []string{u.settings.Host("mcns") + "."}, Reason: "mcp up"})
		changed = true
	}
	if err != nil {
		return false, "", fmt.Errorf("zone %s: %w", u.settings.Domain, err)
	}
	access := mcnsv1.NewAccessServiceClient(conn)
	globs := []string{"*"}
	for _, svc := range coreOrder {
		globs = append(globs, svc)
	}
	for _, g := range globs {
		resp, err := access.CreateGrant(ctx, &mcnsv1.CreateGrantRequest{Grant: &mcnsv1.Grant{
			Principal: "account:" + u.nodeAccount(), Zone: u.settings.Domain, NameGlob: g, Ops: []string{"read", "create", "update", "delete", "sync"}}})
		if err != nil && status.Code(err) != codes.AlreadyExists {
			return changed, "", fmt.Errorf("grant for the node: %w", err)
		}
		changed = changed || resp.GetCreated()
	}
	return changed, "zone " + u.settings.Domain, nil
}

// roots is the trust of a client of this platform: its root and nothing else.
func (u *Up) roots() (*x509.CertPool, error) {
	data, err := os.ReadFile(u.layout.caFile())
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate", u.layout.caFile())
	}
	return pool, nil
}

// handshake proves a name from outside: the proxy's port, the name in SNI, the chain to the root.
func (u *Up) handshake(ctx context.Context, host string, port int, roots *x509.CertPool) error {
	d := tls.Dialer{Config: &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

// proveRoutes shakes hands with each core service that runs, through MC-Proxy.
func (u *Up) proveRoutes(ctx context.Context) (bool, string, error) {
	roots, err := u.roots()
	if err != nil {
		return false, "", err
	}
	names := []string{"mcns", "mcias", "metacrypt", "mcr"}
	return false, fmt.Sprintf("%d names, chains lead to the root", len(names)), u.handshakes(ctx, names, roots)
}

func (u *Up) handshakes(ctx context.Context, names []string, roots *x509.CertPool) error {
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, svc := range names {
		wg.Go(func() {
			host := u.settings.Host(svc)
			// A certificate that was just written is picked up within seconds.
			errs[i] = await(ctx, host, 30*time.Second, func(ctx context.Context) error {
				if err := u.handshake(ctx, host, u.settings.HTTPSPort, roots); err != nil {
					return fault.New(fault.Unavailable, "TLS handshake with %s", host).Wrap(err)
				}
				return nil
			})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
