// Command app is what the engine suite puts into its containers: it does what its first argument says.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "exit":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
		os.Exit(7)
	case "long":
		fmt.Println(strings.Repeat("x", 200_000))
		fmt.Println("after")
	case "probe":
		fmt.Println("uid", os.Getuid(), "gid", os.Getgid(), "pid", os.Getpid())
		status, _ := os.ReadFile("/proc/self/status")
		for _, l := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(l, "Cap") || strings.HasPrefix(l, "NoNewPrivs") || strings.HasPrefix(l, "Seccomp:") {
				fmt.Println(strings.ReplaceAll(l, "\t", " "))
			}
		}
		if err := os.WriteFile("/app.new", nil, 0o600); err != nil {
			fmt.Println("root is read-only")
		}
		if err := syscall.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
			fmt.Println("mount refused")
		}
		fds, _ := os.ReadDir("/proc/self/fd")
		fmt.Println("files", len(fds))
		hosts, _ := os.ReadFile("/etc/hosts")
		fmt.Println(strings.ReplaceAll(string(hosts), "\n", ";"))
		fmt.Println("env", os.Getenv("GREETING"))
	case "write":
		if err := os.WriteFile("/data/kept", []byte("kept"), 0o600); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := os.WriteFile("/ro/x", nil, 0o600); err == nil {
			fmt.Println("wrote into a read-only mount")
			os.Exit(1)
		}
	case "serve":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() { <-stop; fmt.Println("asked to stop"); os.Exit(0) }()
		fmt.Println("serving")
		_ = http.ListenAndServe(os.Args[2], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("staying")
		time.Sleep(time.Hour)
	}
}
