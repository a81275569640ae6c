package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/certs"
	"metacircular.net/mc-proxy/internal/route"
)

type certificates struct {
	mcproxyv1.UnimplementedCertificateServiceServer
	s *Services
}

func certTo(p certs.Pair, i certs.Info, problem string) *mcproxyv1.Certificate {
	out := &mcproxyv1.Certificate{TlsCert: p.Cert, TlsKey: p.Key, Names: i.Names, Fingerprint: i.Fingerprint, LastError: problem}
	if !i.NotAfter.IsZero() {
		out.NotBefore, out.NotAfter = timestamppb.New(i.NotBefore), timestamppb.New(i.NotAfter)
	}
	return out
}

// certList returns the certificates that routes use.
func (s *Services) certList() []*mcproxyv1.Certificate {
	users := map[certs.Pair][]string{}
	for _, r := range s.Control.Snapshot().Index.All() {
		if r.Spec.Mode == route.L7 {
			p := certs.Pair{Cert: r.Spec.TLSCert, Key: r.Spec.TLSKey}
			users[p] = append(users[p], r.Spec.Key.String())
		}
	}
	var out []*mcproxyv1.Certificate
	for _, c := range s.Certs.All() {
		info, problem, _ := c.Status()
		m := certTo(c.Pair, info, problem)
		m.Routes = users[c.Pair]
		out = append(out, m)
	}
	return out
}

func (c *certificates) ListCertificates(context.Context, *mcproxyv1.ListCertificatesRequest) (*mcproxyv1.ListCertificatesResponse, error) {
	return &mcproxyv1.ListCertificatesResponse{Certificates: c.s.certList()}, nil
}

func (c *certificates) CheckCertificate(_ context.Context, req *mcproxyv1.CheckCertificateRequest) (*mcproxyv1.CheckCertificateResponse, error) {
	if req.GetTlsCert() == "" {
		return nil, fault.Field1("tls_cert", "is missing")
	}
	p := certs.Pair{Cert: req.GetTlsCert(), Key: req.GetTlsKey()}
	info, problems := c.s.Certs.Check(p, req.GetHostname())
	return &mcproxyv1.CheckCertificateResponse{Certificate: certTo(p, info, ""), Problems: problems}, nil
}

func (c *certificates) ReloadCertificates(context.Context, *mcproxyv1.ReloadCertificatesRequest) (*mcproxyv1.ReloadCertificatesResponse, error) {
	out := &mcproxyv1.ReloadCertificatesResponse{Loaded: int32(c.s.Certs.Reload())}
	for _, m := range c.s.certList() {
		if m.GetLastError() != "" {
			out.Failed = append(out.Failed, m)
		}
	}
	return out, nil
}
