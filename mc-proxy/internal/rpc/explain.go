package rpc

import (
	"context"
	"fmt"
	"net/netip"

	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/hello"
	"metacircular.net/mc-proxy/internal/ingress"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/table"
)

// story collects the steps of an explanation.
type story struct{ out *mcproxyv1.ExplainResponse }

func (s story) step(name, outcome, format string, args ...any) {
	s.out.Steps = append(s.out.Steps, &mcproxyv1.ExplainStep{Step: name, Outcome: outcome, Detail: fmt.Sprintf(format, args...)})
}

func (s story) reject(reason table.Reason, sees string) (*mcproxyv1.ExplainResponse, error) {
	s.out.Verdict, s.out.Reason, s.out.ClientSees = "reject", string(reason), sees
	return s.out, nil
}

// Explain walks the same functions as the data path, and takes nothing.
func (t *trafficService) Explain(_ context.Context, req *mcproxyv1.ExplainRequest) (*mcproxyv1.ExplainResponse, error) {
	client, err := addrOr(req.GetIp(), "127.0.0.1", "ip")
	if err != nil {
		return nil, err
	}
	l, err := t.listener(req.GetListener())
	if err != nil {
		return nil, err
	}
	set := t.s.Ingress.Settings()
	st := story{&mcproxyv1.ExplainResponse{}}
	if n := t.s.Ingress.Active(); n >= int64(set.Limits.MaxConnections) {
		st.step("process", "full", "%d of %d connections", n, set.Limits.MaxConnections)
		return st.reject(table.MaxConns, "RST")
	}
	st.step("process", "pass", "%d of %d connections", t.s.Ingress.Active(), set.Limits.MaxConnections)
	reset := "RST"
	if l.ProxyProtocol {
		via, err := addrOr(req.GetVia(), req.GetIp(), "via")
		if err != nil {
			return nil, err
		}
		if !l.Trusts(via) {
			st.step("proxy", "untrusted", "%s may not send a PROXY header on %s", via, l.Name)
			return st.reject(table.UntrustedProxy, "RST")
		}
		st.step("proxy", "trusted", "%s speaks for %s", via, client)
		reset = "RST at the hop " + via.String()
	} else if req.GetVia() != "" {
		st.step("proxy", "none", "listener %s takes no PROXY header: the client is %s", l.Name, req.GetVia())
		if client, err = addrOr(req.GetVia(), "", "via"); err != nil {
			return nil, err
		}
	}
	allowed, rule := set.Admit(client)
	why := "default"
	if rule >= 0 {
		why = fmt.Sprintf("rule %d (%s)", rule+1, set.Rules[rule].Prefix)
	}
	if !allowed {
		st.step("firewall", "deny", "%s", why)
		reason := table.DenyCIDR
		if rule >= 0 && set.Rules[rule].Prefix.IsSingleIP() {
			reason = table.DenyIP
		}
		return st.reject(reason, reset)
	}
	st.step("firewall", "allow", "%s", why)
	n := t.s.Ingress.SourceCount(client)
	switch {
	case set.Exempt(client) || rule >= 0:
		st.step("sources", "exempt", "%d connections", n)
	case set.Limits.PerSource > 0 && n >= set.Limits.PerSource:
		st.step("sources", "full", "%d of %d connections", n, set.Limits.PerSource)
		return st.reject(table.PerSource, reset)
	default:
		st.step("sources", "pass", "%d of %d connections", n, set.Limits.PerSource)
	}
	return t.explainRoute(st, l, req)
}

func addrOr(s, fallback, field string) (netip.Addr, error) {
	if s == "" {
		s = fallback
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fault.Field1(field, "%q is no address", s)
	}
	return a.Unmap(), nil
}

func (t *trafficService) listener(name string) (ingress.Listener, error) {
	for _, l := range t.s.Ingress.Listeners() {
		if l.Name == name || name == "" && l.Kind == ingress.TLS && l.Name == "https" {
			return l.Listener, nil
		}
	}
	if name == "" {
		for _, l := range t.s.Ingress.Listeners() {
			if l.Kind == ingress.TLS {
				return l.Listener, nil
			}
		}
		return ingress.Listener{}, fault.New(fault.NotFound, "no listener of kind tls is configured")
	}
	return ingress.Listener{}, fault.Field1("listener", "there is no listener %q", name)
}

func (t *trafficService) explainRoute(st story, l ingress.Listener, req *mcproxyv1.ExplainRequest) (*mcproxyv1.ExplainResponse, error) {
	if l.Kind == ingress.Redirect {
		st.step("redirect", "redirect", "plain HTTP goes to listener %s", l.Rules.To)
		st.out.Verdict, st.out.ClientSees = "redirect", "308"
		return st.out, nil
	}
	name := ""
	if req.GetSni() != "" {
		var ok bool
		if name, ok = hello.NormaliseName(req.GetSni()); !ok {
			st.step("hello", "bad", "%q is no host name", req.GetSni())
			return st.reject(table.BadHello, "RST")
		}
	}
	st.step("hello", "pass", "server name %q, ALPN %v", name, req.GetAlpn())
	snap := t.s.Control.Snapshot()
	rt, why := snap.Match(l.Name, route.Offer{Name: name, ALPN: req.GetAlpn()})
	if rt == nil {
		st.step("route", "none", "no route of %s matches", l.Name)
		return st.reject(why, "alert unrecognized_name")
	}
	st.out.Route, st.out.RouteId = rt.Spec.Key.String(), rt.ID
	st.step("route", "match", "%s, %s, revision %d, owner %s", rt.Spec.Key, rt.Spec.Mode, rt.Revision, rt.Spec.Owner)
	if rt.Spec.Mode == route.L7 {
		if c := snap.Certs[rt.ID]; c != nil {
			if _, problem, ok := c.Status(); !ok {
				st.step("certificate", "none", "%s", problem)
				return st.reject("cert_error", "handshake failure")
			}
		}
		host := req.GetHost()
		if host == "" {
			host = name
		}
		if snap.Host(l.Name, rt.ID, host, req.GetAlpn()) != rt {
			st.step("host", "misdirected", "host %q belongs to another route", host)
			return st.reject("misdirected", "421")
		}
		st.step("host", "pass", "host %q", host)
	}
	live := snap.Live[rt.ID]
	if live.Gate.Held() {
		st.step("hold", "held", "waits at most %s", rt.Hold.MaxWait)
		st.out.Verdict, st.out.ClientSees = "hold", "waits"
		return st.out, nil
	}
	b, err := live.Choice(rt.Spec.Backends)
	if err != nil {
		st.step("backend", "none", "%v", err)
		sees := "RST"
		if rt.Spec.Mode == route.L7 {
			sees = "503"
		}
		return st.reject("no_backend", sees)
	}
	st.step("backend", "chosen", "%s, %s, %d in flight", b.Addr, b.State().Health, b.InFlight())
	st.out.Verdict, st.out.Backend, st.out.ClientSees = "pass", b.Addr, "the backend"
	return st.out, nil
}
