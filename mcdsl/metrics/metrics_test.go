package metrics_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"metacircular.net/mcdsl/metrics"
)

func TestScrape(t *testing.T) {
	t.Parallel()
	m := metrics.New("mcns", "1.2.3")
	m.RPC("/mcns.v1.ZoneService/ListZones", "OK", "tcp", time.Millisecond)
	m.DBWait(time.Millisecond)
	m.Gauge("mc_db_bytes", "Size.", nil, func() float64 { return 42 })
	m.Gauge("mc_db_bytes", "Size.", nil, func() float64 { return 43 })
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, part := range []string{`mc_build_info{service="mcns",version="1.2.3"} 1`, "mc_db_bytes 42",
		`mc_rpc_requests_total{code="OK",method="/mcns.v1.ZoneService/ListZones",transport="tcp"} 1`} {
		if !strings.Contains(rec.Body.String(), part) {
			t.Errorf("scrape lacks %s", part)
		}
	}
}

func TestNilDoesNothing(t *testing.T) {
	t.Parallel()
	var m *metrics.Registry
	m.RPC("", "", "", 0)
	m.HTTP("", "")
	m.Verify("")
	m.CacheHit()
	m.Panic("")
	m.ReloadFailed("")
	m.DBWait(0)
	m.DBWrite(0)
	m.Gauge("", "", nil, nil)
	if m.Prometheus() != nil {
		t.Error("a nil registry has a registry")
	}
}

func ExampleNew() {
	m := metrics.New("mcns", "1.0")
	m.RPC("/mcns.v1.ZoneService/ListZones", "OK", "tcp", 3*time.Millisecond)
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	fmt.Println(rec.Code)
	// Output: 200
}
