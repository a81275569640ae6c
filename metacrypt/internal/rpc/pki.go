package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/policy"
	"metacircular.net/metacrypt/internal/seal"
	"metacircular.net/metacrypt/internal/store"
)

type pkiService struct {
	metacryptv1.UnimplementedPKIServer
	*Server
}

// with runs f with the engine of a mount.
func (s pkiService) with(ctx context.Context, mount string, f func(*seal.Lease, *pki.Engine) error) error {
	return s.Seal.With(ctx, func(l *seal.Lease) error {
		e, err := l.Engines.PKI(mount)
		if err != nil {
			return err
		}
		return f(l, e)
	})
}

func certOf(c store.Cert) *metacryptv1.Certificate {
	var by pki.Requester
	_ = json.Unmarshal([]byte(c.Requester), &by) // what cannot be read is shown as nobody
	out := &metacryptv1.Certificate{Serial: c.Serial, Issuer: c.Issuer, Profile: c.Profile, Identifiers: c.SANs, Requester: by.Name,
		NotBefore: timestamppb.New(time.Unix(c.NotBefore, 0)), NotAfter: timestamppb.New(time.Unix(c.NotAfter, 0)), ReplacedBy: c.ReplacedBy,
		SpkiSha256: hex.EncodeToString(c.SPKIHash)}
	if c.RevokedAt > 0 {
		out.RevokedAt, out.Reason = timestamppb.New(time.Unix(c.RevokedAt, 0)), ca.ReasonName(c.Reason)
	}
	if cert, err := ca.ParseCertificate(c.DER); err == nil {
		out.Pem = string(ca.PEM(cert))
	}
	return out
}

// resource is what policy decides about when a certificate is asked for.
func resource(mount, profile string) string {
	if profile == "" {
		profile = "server"
	}
	return pki.Type + "/" + mount + "/" + profile
}

func (s pkiService) Issue(ctx context.Context, r *metacryptv1.IssueRequest) (*metacryptv1.IssueResponse, error) {
	names, err := ident.ParseAll(r.GetIdentifiers())
	if err != nil {
		return nil, fault.Field1("identifiers", "%v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	is, err := s.sign(ctx, mountOf(r), r.GetProfile(), names, &key.PublicKey, r.GetTtlSeconds())
	if err != nil {
		return nil, err
	}
	keyPEM, err := ca.KeyPEM(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return &metacryptv1.IssueResponse{Certificate: certOf(is.Cert), ChainPem: string(ca.PEM(is.Chain...)), KeyPem: keyPEM}, nil
}

func (s pkiService) SignCSR(ctx context.Context, r *metacryptv1.SignCSRRequest) (*metacryptv1.SignCSRResponse, error) {
	req, err := ca.ParseRequest(r.GetCsr())
	if err != nil {
		return nil, err
	}
	is, err := s.sign(ctx, mountOf(r), r.GetProfile(), req.Names, req.Key, r.GetTtlSeconds())
	if err != nil {
		return nil, err
	}
	return &metacryptv1.SignCSRResponse{Certificate: certOf(is.Cert), ChainPem: string(ca.PEM(is.Chain...))}, nil
}

// sign asks policy and issues.
func (s pkiService) sign(ctx context.Context, mount, profile string, names []ident.Name, key any, ttl int32) (*pki.Issued, error) {
	if ttl < 0 {
		return nil, fault.Field1("ttl_seconds", "is negative")
	}
	var out *pki.Issued
	err := s.with(ctx, mount, func(l *seal.Lease, e *pki.Engine) error {
		if err := decide(ctx, l, policy.Issue, resource(mount, profile), names, e.Zones()); err != nil {
			return err
		}
		var err error
		out, err = e.Issue(l.Ctx, requester(auth.From(ctx)), key, names, profile, time.Duration(ttl)*time.Second)
		return err
	})
	return out, err
}

func (s pkiService) RenewChallenge(ctx context.Context, r *metacryptv1.RenewChallengeRequest) (*metacryptv1.RenewChallengeResponse, error) {
	out := &metacryptv1.RenewChallengeResponse{}
	err := s.with(ctx, mountOf(r), func(_ *seal.Lease, e *pki.Engine) error {
		nonce, until := e.Challenge()
		out.Nonce, out.ExpiresAt = nonce, timestamppb.New(until)
		return nil
	})
	return out, err
}

func (s pkiService) Renew(ctx context.Context, r *metacryptv1.RenewRequest) (*metacryptv1.RenewResponse, error) {
	mount := mountOf(r)
	var is *pki.Issued
	err := s.with(ctx, mount, func(l *seal.Lease, e *pki.Engine) error {
		allow := func(by pki.Requester, profile string, names []ident.Name) error {
			d := l.Engines.Policy.Set().Decide(policy.Request{Subject: subject(by), Action: policy.Issue, Resource: resource(mount, profile),
				Identifiers: names, Zones: e.Zones()})
			if !d.Allow {
				return fault.New(fault.Denied, "%s", d.Why).WithReason(auth.ReasonDenied).WithNext("metacrypt policy explain --user %s issue %s", by.Name, resource(mount, profile))
			}
			return nil
		}
		var err error
		is, err = e.Renew(l.Ctx, pki.Renewal{OldLeaf: r.GetOldLeaf(), CSR: r.GetCsr(), Nonce: r.GetNonce(), Signature: r.GetSignature()}, allow)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &metacryptv1.RenewResponse{Certificate: certOf(is.Cert), ChainPem: string(ca.PEM(is.Chain...))}, nil
}

func (s pkiService) GetCert(ctx context.Context, r *metacryptv1.GetCertRequest) (*metacryptv1.GetCertResponse, error) {
	var c store.Cert
	mount := mountOf(r)
	err := s.with(ctx, mount, func(l *seal.Lease, e *pki.Engine) error {
		if err := decide(ctx, l, policy.Read, pki.Type+"/"+mount+"/certs", nil, nil); err != nil {
			return err
		}
		var err error
		c, err = e.Cert(l.Ctx, r.GetSerial())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &metacryptv1.GetCertResponse{Certificate: certOf(c)}, nil
}

func (s pkiService) ListCerts(ctx context.Context, r *metacryptv1.ListCertsRequest) (*metacryptv1.ListCertsResponse, error) {
	before := int64(math.MaxInt64)
	if t := r.GetPageToken(); t != "" {
		n, err := strconv.ParseInt(t, 36, 64)
		if err != nil {
			return nil, fault.Field1("page_token", "is none of ours; start again without it")
		}
		before = n
	}
	out := &metacryptv1.ListCertsResponse{}
	mount := mountOf(r)
	err := s.with(ctx, mount, func(l *seal.Lease, e *pki.Engine) error {
		if err := decide(ctx, l, policy.List, pki.Type+"/"+mount+"/certs", nil, nil); err != nil {
			return err
		}
		limit := pageSize(r.GetPageSize())
		rows, err := e.List(l.Ctx, before, r.GetSearch(), r.GetLive(), limit)
		for _, c := range rows {
			out.Certificates = append(out.Certificates, certOf(c))
		}
		if len(rows) == limit {
			out.NextPageToken = strconv.FormatInt(rows[limit-1].Seq, 36)
		}
		return err
	})
	return out, err
}

func (s pkiService) Revoke(ctx context.Context, r *metacryptv1.RevokeRequest) (*metacryptv1.RevokeResponse, error) {
	reason, err := ca.Reason(r.GetReason())
	if err != nil {
		return nil, err
	}
	var c store.Cert
	mount := mountOf(r)
	err = s.with(ctx, mount, func(l *seal.Lease, e *pki.Engine) error {
		// The names decide too, so the certificate is read first. Without one the question is asked without names, so
		// that whoever may not revoke does not learn what exists.
		var names []ident.Name
		found, lookErr := e.Cert(l.Ctx, r.GetSerial())
		if lookErr == nil {
			if names, err = ident.ParseAll(found.SANs); err != nil {
				return err
			}
		}
		if err := decide(ctx, l, policy.Delete, pki.Type+"/"+mount+"/certs", names, e.Zones()); err != nil {
			return err
		}
		if lookErr != nil {
			return lookErr
		}
		c, err = e.Revoke(l.Ctx, r.GetSerial(), reason)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Kick()
	return &metacryptv1.RevokeResponse{Certificate: certOf(c)}, nil
}
