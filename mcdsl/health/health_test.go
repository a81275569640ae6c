package health_test

import (
	"context"
	"fmt"
	"testing"

	"metacircular.net/mcdsl/health"
)

func Example() {
	set := health.New("mcns", "1.0")
	set.Add(
		health.Check{Code: "disk", Title: "disk has room", Run: func(context.Context) health.Result {
			return health.Failed("97 %% full").Do("mcns doctor")
		}},
		health.Check{Code: "snapshot", Title: "snapshot is young", DependsOn: []string{"disk"}, Run: func(context.Context) health.Result {
			return health.Warning("the last one failed")
		}},
		health.Check{Code: "zones", Title: "zones are loaded", Duty: true, Run: func(context.Context) health.Result {
			return health.OK("3 zones")
		}},
	)
	set.SetReady(true)
	report := set.Report(context.Background())
	fmt.Println(report.State, set.Alive(context.Background()))
	for _, f := range report.Findings {
		if !f.Hidden {
			fmt.Println(f.Severity, f.Code, f.Detail)
		}
	}
	// Output:
	// degraded <nil>
	// fail disk 97 % full
	// ok zones 3 zones
}

func TestStates(t *testing.T) {
	t.Parallel()
	set := health.New("x", "1")
	var duty health.Result
	set.Add(health.Check{Code: "duty", Duty: true, Run: func(context.Context) health.Result { return duty }})
	state := func() string { return set.Report(t.Context()).State }
	if got := state(); got != "starting" || set.Ready() {
		t.Errorf("before ready: %s, %v", got, set.Ready())
	}
	changed, stop := set.Changed()
	defer stop()
	set.SetReady(true)
	<-changed
	if got := state(); got != "healthy" || !set.Ready() {
		t.Errorf("ready: %s", got)
	}
	duty = health.Failed("gone")
	if got := state(); got != "down" || set.Alive(t.Context()) == nil {
		t.Errorf("first duty failed: %s, alive = %v", got, set.Alive(t.Context()))
	}
	first := set.Report(t.Context()).Findings[0].Since
	if again := set.Report(t.Context()).Findings[0].Since; first == nil || !first.Equal(*again) {
		t.Errorf("since moved: %v, %v", first, again)
	}
	duty = health.OK("back")
	if f := set.Report(t.Context()).Findings[0]; f.Since != nil {
		t.Errorf("a good finding has since: %+v", f)
	}
	set.State(func() string { return "sealed" })
	if got := state(); got != "sealed" {
		t.Errorf("own state: %s", got)
	}
	set.Drain()
	if got := state(); got != "draining" || set.Ready() {
		t.Errorf("draining: %s", got)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	run := func(context.Context) health.Result { return health.OK("") }
	for name, checks := range map[string][]health.Check{
		"twice":      {{Code: "a", Run: run}, {Code: "a", Run: run}},
		"nameless":   {{Run: run}},
		"dependency": {{Code: "a", DependsOn: []string{"b"}, Run: run}},
		"empty":      {{Code: "a"}},
	} {
		set := health.New("x", "1")
		set.Add(checks...)
		if set.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
