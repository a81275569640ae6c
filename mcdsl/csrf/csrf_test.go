package csrf_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"metacircular.net/mcdsl/csrf"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method string
		header       map[string]string
		ok           bool
	}{
		{"GET from anywhere", "GET", map[string]string{"Sec-Fetch-Site": "cross-site"}, true},
		{"own page", "POST", map[string]string{"Sec-Fetch-Site": "same-origin"}, true},
		{"address bar", "POST", map[string]string{"Sec-Fetch-Site": "none"}, true},
		{"own origin, old browser", "POST", map[string]string{"Origin": "https://mcns.mc.localhost"}, true},
		{"cross-site", "POST", map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
		{"sibling app", "POST", map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "https://evil.mc.localhost"}, false},
		{"foreign origin", "POST", map[string]string{"Origin": "https://evil.example"}, false},
		{"null origin", "POST", map[string]string{"Origin": "null"}, false},
		{"neither header", "POST", nil, false},
		{"DELETE, neither header", "DELETE", nil, false},
	}
	for _, tt := range tests {
		r := httptest.NewRequest(tt.method, "https://mcns.mc.localhost/zones", nil)
		for k, v := range tt.header {
			r.Header.Set(k, v)
		}
		if err := csrf.Check(r); (err == nil) != tt.ok {
			t.Errorf("%s: Check = %v, want ok = %v", tt.name, err, tt.ok)
		}
	}
}

func ExampleProtect() {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusSeeOther) })
	h := csrf.Protect(page, func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusForbidden)
	})

	r := httptest.NewRequest("POST", "https://mcns.mc.localhost/zones", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Print(w.Body.String())
	fmt.Println(w.Code)
	// Output: refused: it started on another site
	// 403
}
