package httpserver_test

import (
	"fmt"
	"net/http/httptest"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"
)

func ExampleWriteError() {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/v1/zones/lab", nil)
	httpserver.WriteError(w, r, fault.New(fault.NotFound, "no zone %s", "lab").WithNext("mcns zone list"))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 404 {"error":{"code":"not found","reason":"","message":"no zone lab","next":"mcns zone list"}}
}
