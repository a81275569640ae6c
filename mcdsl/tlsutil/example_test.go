package tlsutil_test

import (
	"fmt"
	"os"
	"path/filepath"

	"metacircular.net/mcdsl/tlsutil"
)

func ExampleNewCertificate() {
	dir, err := os.MkdirTemp("", "certs")
	if err != nil {
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	roots, _ := tlsutil.NewRoots(tlsutil.RootsConfig{File: filepath.Join(dir, "ca.pem")})
	cert, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: filepath.Join(dir, "cert.pem"),
		KeyFile: filepath.Join(dir, "key.pem"), Roots: roots})
	// The files are not there yet: the service starts all the same.
	fmt.Println(err, cert.Status().Loaded)
	// Output: <nil> false
}
