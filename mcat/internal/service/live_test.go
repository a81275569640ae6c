package service_test

import (
	"fmt"
	"testing"

	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web/webtest"
)

func TestLive(t *testing.T) {
	b := webtest.NewBrowser(t, &mctest.CA{RootFile: "/tmp/ui/srv/ca.pem"})
	b.Open("https://mcat.mc.localhost:28444/")
	b.Open("https://mcat.mc.localhost:28444/login")
	fmt.Println(webtest.Eval[string](b, "location.href"))
	fmt.Println(b.Text())
	b.Shoot("/tmp/shots/live-signin.png", 1280)
	webtest.Eval[bool](b, `(document.querySelector('[name=username]').value='alice', document.querySelector('[name=password]').value='violet canoe seven lanterns', true)`)
	b.Submit(`form button:not([type=button]):not([name=theme]), form.form button`)
	b.Open("https://mcat.mc.localhost:28444/")
	fmt.Println(webtest.Eval[string](b, "location.href"))
	fmt.Println(b.Text())
	b.Shoot("/tmp/shots/live-in.png", 1280)
	b.Shoot("/tmp/shots/live-in390.png", 390)
	b.Submit("form[action='/logout'] button")
	fmt.Println(webtest.Eval[string](b, "location.href"))
	b.Open("https://mcat.mc.localhost:28444/login")
	fmt.Println(webtest.Eval[string](b, "location.href"))
	fmt.Println(b.Text())
}
