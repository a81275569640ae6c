package proc

import "github.com/elastic/go-seccomp-bpf/arch"

// knownCalls are the system calls of this architecture.
func knownCalls() map[string]bool {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil
	}
	known := map[string]bool{}
	for name := range info.SyscallNames {
		known[name] = true
	}
	return known
}
