package rpc

import (
	"context"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/fault"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/seal"
)

func issuerOf(i pki.Issuer) *metacryptv1.Issuer {
	out := &metacryptv1.Issuer{Name: i.Name, State: i.State, Pem: string(ca.PEM(i.Cert)), NotBefore: timestamppb.New(i.Cert.NotBefore),
		NotAfter: timestamppb.New(i.Cert.NotAfter), PermittedDns: ca.Zones(i.Cert)}
	for _, p := range ca.Nets(i.Cert) {
		out.PermittedIps = append(out.PermittedIps, p.String())
	}
	return out
}

func (s pkiService) Adopt(ctx context.Context, r *metacryptv1.AdoptRequest) (*metacryptv1.AdoptResponse, error) {
	defer clear(r.GetRootKeyPem())
	defer clear(r.GetIssuerKeyPem())
	if err := s.prove(ctx, r.GetProof()); err != nil {
		return nil, err
	}
	a, err := adoption(r)
	if err != nil {
		return nil, err
	}
	out := &metacryptv1.AdoptResponse{}
	err = s.with(ctx, mountOf(r), func(l *seal.Lease, e *pki.Engine) error {
		var err error
		if out.Changed, err = e.Adopt(l.Ctx, a); err != nil {
			return err
		}
		out.Fingerprint, out.Issuer = ca.Fingerprint(e.Root()), issuerOf(e.Issuers()[0])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func adoption(r *metacryptv1.AdoptRequest) (pki.Adoption, error) {
	var a pki.Adoption
	var err error
	if a.Root.Cert, err = ca.ParseCertificate([]byte(r.GetRootPem())); err != nil {
		return a, fault.Field1("root_pem", "is no certificate")
	}
	if r.GetIssuerPem() != "" {
		if a.Issuer.Cert, err = ca.ParseCertificate([]byte(r.GetIssuerPem())); err != nil {
			return a, fault.Field1("issuer_pem", "is no certificate")
		}
	}
	if len(r.GetRootKeyPem()) > 0 {
		if a.Root.Key, err = ca.ParseKey(r.GetRootKeyPem()); err != nil {
			return a, fault.Field1("root_key_pem", "is no PKCS #8 key in PEM")
		}
	}
	if len(r.GetIssuerKeyPem()) > 0 {
		if a.Issuer.Key, err = ca.ParseKey(r.GetIssuerKeyPem()); err != nil {
			return a, fault.Field1("issuer_key_pem", "is no PKCS #8 key in PEM")
		}
	}
	if len(r.GetLeaves()) > 100 {
		return a, fault.Field1("leaves", "there are %d, at most 100", len(r.GetLeaves()))
	}
	for _, l := range r.GetLeaves() {
		c, err := ca.ParseCertificate([]byte(l.GetPem()))
		if err != nil {
			return a, fault.Field1("leaves", "holds something that is no certificate")
		}
		a.Leaves = append(a.Leaves, c)
	}
	return a, nil
}

func (s pkiService) CreateIssuer(ctx context.Context, r *metacryptv1.CreateIssuerRequest) (*metacryptv1.CreateIssuerResponse, error) {
	if err := s.prove(ctx, r.GetProof()); err != nil {
		return nil, err
	}
	spec := pki.NewIssuer{Name: r.GetName(), Zones: r.GetPermittedDns(), Life: time.Duration(r.GetDays()) * 24 * time.Hour}
	for _, n := range r.GetPermittedIps() {
		p, err := netip.ParsePrefix(n)
		if err != nil || p.Masked() != p {
			return nil, fault.Field1("permitted_ips", "%q is no network", n)
		}
		spec.Nets = append(spec.Nets, p)
	}
	out := &metacryptv1.CreateIssuerResponse{}
	err := s.with(ctx, mountOf(r), func(l *seal.Lease, e *pki.Engine) error {
		i, err := e.CreateIssuer(l.Ctx, spec)
		if err == nil {
			out.Issuer = issuerOf(i)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Kick()
	return out, nil
}

func (s pkiService) ListIssuers(ctx context.Context, r *metacryptv1.ListIssuersRequest) (*metacryptv1.ListIssuersResponse, error) {
	out := &metacryptv1.ListIssuersResponse{}
	err := s.with(ctx, mountOf(r), func(_ *seal.Lease, e *pki.Engine) error {
		for _, i := range e.Issuers() {
			out.Issuers = append(out.Issuers, issuerOf(i))
		}
		return nil
	})
	return out, err
}

func (s pkiService) GetRoot(ctx context.Context, r *metacryptv1.GetRootRequest) (*metacryptv1.GetRootResponse, error) {
	b, err := s.Public.Root(ctx, mountOf(r))
	if err != nil {
		return nil, err
	}
	c, err := ca.ParseCertificate(b)
	if err != nil {
		return nil, err
	}
	return &metacryptv1.GetRootResponse{Pem: string(b), Fingerprint: ca.Fingerprint(c)}, nil
}

func (s pkiService) GetChain(ctx context.Context, r *metacryptv1.GetChainRequest) (*metacryptv1.GetChainResponse, error) {
	b, err := s.Public.Chain(ctx, mountOf(r))
	if err != nil {
		return nil, err
	}
	return &metacryptv1.GetChainResponse{Pem: string(b)}, nil
}

func (s pkiService) GetIssuer(ctx context.Context, r *metacryptv1.GetIssuerRequest) (*metacryptv1.GetIssuerResponse, error) {
	b, err := s.Public.Issuer(ctx, mountOf(r), r.GetName())
	if err != nil {
		return nil, err
	}
	return &metacryptv1.GetIssuerResponse{Pem: string(b)}, nil
}

func (s pkiService) GetBundle(ctx context.Context, r *metacryptv1.GetBundleRequest) (*metacryptv1.GetBundleResponse, error) {
	b, err := s.Public.Bundle(ctx, mountOf(r))
	if err != nil {
		return nil, err
	}
	return &metacryptv1.GetBundleResponse{Pem: string(b)}, nil
}

func (s pkiService) GetCRL(ctx context.Context, r *metacryptv1.GetCRLRequest) (*metacryptv1.GetCRLResponse, error) {
	b, err := s.Public.CRL(ctx, mountOf(r), r.GetIssuer())
	if err != nil {
		return nil, err
	}
	return &metacryptv1.GetCRLResponse{Der: b}, nil
}
