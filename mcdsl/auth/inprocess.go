package auth

import (
	"context"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
)

// Metadata that one part of a process tells another. It is believed on the in-process transport alone and
// stripped everywhere else.
const (
	mdClient    = "mc-client-addr"
	mdRequestID = "mc-req-id"
	mdLocal     = "mc-local"
	mdToken     = "authorization"
	mdPrefix    = "mc-"
	mdUser      = "mc-user"
	mdMaxAge    = "mc-max-age"
)

// Outgoing returns a context whose calls on the in-process connection say where the present call came from and,
// on a page, who it is. The server's own connection does this by itself.
func Outgoing(ctx context.Context) context.Context {
	call := CallFrom(ctx)
	if call == nil {
		return ctx
	}
	kv := []string{mdRequestID, call.Origin.RequestID}
	if call.Client.IsValid() {
		kv = append(kv, mdClient, call.Client.String())
	}
	if c := call.Caller; c.known && c.Kind == Socket {
		uid, _ := strings.CutPrefix(c.Subject, "local:")
		kv = append(kv, mdLocal, uid+":"+url.QueryEscape(c.Name)+":"+strings.Join(c.Roles, ","))
	} else if call.token != "" {
		if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get(mdToken)) == 0 {
			kv = append(kv, mdToken, "Bearer "+call.token)
		}
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// Incoming returns the origin and, from the socket, the caller that came with an in-process call.
func Incoming(md metadata.MD) (Origin, Caller) {
	o := Origin{Transport: InProcess}
	if v := md.Get(mdRequestID); len(v) == 1 {
		o.RequestID = v[0]
	}
	if v := md.Get(mdClient); len(v) == 1 {
		o.Client, _ = netip.ParseAddr(v[0])
	}
	v := md.Get(mdLocal)
	if len(v) != 1 {
		return o, Caller{}
	}
	part := strings.Split(v[0], ":")
	if len(part) != 3 {
		return o, Caller{}
	}
	uid, err := strconv.ParseUint(part[0], 10, 32)
	name, nerr := url.QueryUnescape(part[1])
	if err != nil || nerr != nil {
		return o, Caller{}
	}
	o.Transport = OverUnix
	var roles []string
	if part[2] != "" {
		roles = strings.Split(part[2], ",")
	}
	return o, LocalPeer(uint32(uid), name, roles...)
}

// Strip removes metadata that only this process may set.
func Strip(md metadata.MD) metadata.MD {
	dirty := false
	for k := range md {
		dirty = dirty || strings.HasPrefix(k, mdPrefix)
	}
	if !dirty {
		return md
	}
	md = md.Copy()
	for k := range md {
		if strings.HasPrefix(k, mdPrefix) {
			delete(md, k)
		}
	}
	return md
}

// Bearer returns the token of the Authorization values of a call: "" for none, an error for several. Another
// scheme than Bearer is no token.
func Bearer(values []string) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", errSeveral()
	}
	const scheme = "bearer "
	v := values[0]
	if len(v) < len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", nil
	}
	return strings.TrimLeft(v[len(scheme):], " "), nil
}

// Trailer is what a call in process tells its edge at the end: who it was, for the log line, and how recent a
// sign-in it wants, for the challenge.
func (c *Call) Trailer() metadata.MD {
	md := metadata.MD{}
	if c.Caller.known {
		md.Set(mdUser, c.Caller.String())
	}
	if c.Rule.MaxAuthAge > 0 {
		md.Set(mdMaxAge, strconv.Itoa(int(c.Rule.MaxAuthAge/time.Second)))
	}
	return md
}

// Learn takes a trailer up at the edge.
func (c *Call) Learn(md metadata.MD) {
	if v := md.Get(mdUser); len(v) == 1 && !c.Caller.known {
		c.User = v[0]
	}
	if v := md.Get(mdMaxAge); len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil {
			c.Rule.MaxAuthAge = time.Duration(n) * time.Second
		}
	}
}
