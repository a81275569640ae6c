package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// CancelOp implements the contract.
func (s *server) CancelOp(ctx context.Context, r *mcpv1.CancelOpRequest) (*mcpv1.CancelOpResponse, error) {
	op, err := s.d.Cancel(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &mcpv1.CancelOpResponse{Op: s.op(ctx, op)}, nil
}

// ticks is the kernel's clock tick of /proc/PID/stat, the same 100 per second on every Linux platform we build for.
const ticks = 100

// Stats implements the contract from what the kernel says of each component's first process.
func (s *server) Stats(ctx context.Context, r *mcpv1.StatsRequest) (*mcpv1.StatsResponse, error) {
	v, err := s.d.View(ctx, r.GetService())
	if err != nil {
		return nil, err
	}
	out := &mcpv1.StatsResponse{Usages: []*mcpv1.Usage{}}
	for _, c := range v.Components {
		u := &mcpv1.Usage{Component: c.Name}
		if pid := c.Container.PID; pid > 0 {
			dir := filepath.Join("/proc", strconv.Itoa(pid))
			if f := fieldsOf(filepath.Join(dir, "statm")); len(f) > 1 {
				pages, _ := strconv.ParseInt(f[1], 10, 64)
				u.MemoryBytes = pages * int64(os.Getpagesize())
			}
			if f := fieldsOf(filepath.Join(dir, "stat")); len(f) > 15 {
				user, _ := strconv.ParseFloat(f[13], 64)
				system, _ := strconv.ParseFloat(f[14], 64)
				u.CpuSeconds = (user + system) / ticks
			}
			u.Pids = 1
		}
		out.Usages = append(out.Usages, u)
	}
	return out, nil
}

func fieldsOf(file string) []string {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// Doctor implements the contract: engines, disk, and every service with its cause.
func (s *server) Doctor(ctx context.Context, r *mcpv1.DoctorRequest) (*mcpv1.DoctorResponse, error) {
	out := &mcpv1.DoctorResponse{Findings: []*mcpv1.Finding{}}
	add := func(code, level, subject, next, format string, args ...any) {
		out.Findings = append(out.Findings, &mcpv1.Finding{Code: code, Level: level, Subject: subject, Detail: fmt.Sprintf(format, args...), Next: next})
	}
	n := s.node(ctx)
	for _, e := range n.GetEngines() {
		if !e.GetUp() {
			add("engine.reach", "fail", e.GetKind(), "start the engine", "it does not answer")
			continue
		}
		add("engine.reach", "ok", e.GetKind(), "", "answers, version %s", e.GetVersion())
		for _, w := range e.GetWeaker() {
			add("engine.weaker", "warn", e.GetKind(), "", "%s", w)
		}
	}
	if !n.GetNetworkIsolated() {
		add("network.isolation", "warn", n.GetName(), "", "not isolated: run only what you trust")
	}
	if total := n.GetDiskTotalBytes(); total > 0 {
		used := 100 - 100*n.GetDiskFreeBytes()/total
		level := "ok"
		switch {
		case used >= 95:
			level = "fail"
		case used >= 85:
			level = "warn"
		}
		add("disk.free", level, n.GetName(), "remove images and logs that are not needed", "%d %% used", used)
	}
	all, err := s.d.Views(ctx)
	if err != nil {
		return nil, err
	}
	found := r.GetService() == ""
	for _, v := range all {
		if r.GetService() != "" && v.Row.Name != r.GetService() {
			continue
		}
		found = true
		if v.State == "healthy" {
			add("service.health", "ok", v.Row.Name, "", "healthy, generation %d", v.Row.Current)
			continue
		}
		cause := v.State
		for _, c := range v.Components {
			if c.Detail != "" {
				cause += "; " + c.Name + ": " + c.Detail
			}
		}
		level := "fail"
		if v.Row.Desired != "running" {
			level = "warn"
		}
		add("service.health", level, v.Row.Name, "mcp logs "+v.Row.Name, "%s", cause)
	}
	if !found {
		return nil, fault.New(fault.NotFound, "no service %q on this node", r.GetService()).WithNext("mcp ps")
	}
	sort.SliceStable(out.Findings, func(i, j int) bool {
		return out.Findings[i].GetLevel() == "fail" && out.Findings[j].GetLevel() != "fail"
	})
	return out, nil
}

// SyncHosts implements the contract: platform names only, each with an address, written durably.
func (s *server) SyncHosts(_ context.Context, r *mcpv1.SyncHostsRequest) (*mcpv1.SyncHostsResponse, error) {
	var b strings.Builder
	for _, h := range r.GetHosts() {
		if !strings.HasSuffix(h.GetName(), "."+s.cfg.Agent.Domain) || strings.ContainsAny(h.GetName()+h.GetAddr(), " \t\n#") || h.GetAddr() == "" {
			return nil, fault.Field1("hosts", "%q is not a name of this platform with an address", h.GetName())
		}
		fmt.Fprintf(&b, "%s %s\n", h.GetAddr(), h.GetName())
	}
	file := filepath.Join(s.cfg.Agent.Root, "run", "hosts")
	if old, err := os.ReadFile(file); err == nil && string(old) == b.String() {
		return &mcpv1.SyncHostsResponse{}, nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return nil, fmt.Errorf("write the host map: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(b.String())
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return nil, fmt.Errorf("write the host map: %w", err)
	}
	return &mcpv1.SyncHostsResponse{Changed: true}, nil
}
