package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"metacircular.net/mcp/internal/engine"
)

// controller is one resource that control groups bound, in either version's files.
type controller struct {
	name string
	v1   func(dir string, l engine.Limits) error
	v2   func(dir string, l engine.Limits) error
}

var controllers = []controller{
	{
		name: "memory",
		v1: func(dir string, l engine.Limits) error {
			return set(dir, "memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10), l.Memory > 0)
		},
		v2: func(dir string, l engine.Limits) error {
			return set(dir, "memory.max", strconv.FormatInt(l.Memory, 10), l.Memory > 0)
		},
	},
	{
		name: "pids",
		v1: func(dir string, l engine.Limits) error {
			return set(dir, "pids.max", strconv.FormatInt(l.PIDs, 10), l.PIDs > 0)
		},
		v2: func(dir string, l engine.Limits) error {
			return set(dir, "pids.max", strconv.FormatInt(l.PIDs, 10), l.PIDs > 0)
		},
	},
	{
		name: "cpu",
		v1: func(dir string, l engine.Limits) error {
			return set(dir, "cpu.cfs_quota_us", strconv.Itoa(int(l.CPU*100_000)), l.CPU > 0)
		},
		v2: func(dir string, l engine.Limits) error {
			return set(dir, "cpu.max", fmt.Sprintf("%d 100000", int(l.CPU*100_000)), l.CPU > 0)
		},
	},
}

func set(dir, file, value string, wanted bool) error {
	if !wanted {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600)
}

const cgroupRoot = "/sys/fs/cgroup"

// base is the folder of a controller, and whether it is of version 2.
func (c controller) base() (dir string, unified bool) {
	if _, err := os.Stat(cgroupRoot + "/cgroup.controllers"); err == nil {
		return cgroupRoot, true
	}
	return filepath.Join(cgroupRoot, c.name), false
}

func (c controller) dir(platform, id string) (string, bool) {
	b, unified := c.base()
	return filepath.Join(b, "mc-"+platform, id), unified
}

// writable finds out by making the platform's group.
func (c controller) writable(platform string) bool {
	b, unified := c.base()
	dir := filepath.Join(b, "mc-"+platform)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false
	}
	if !unified {
		return true
	}
	// In version 2 a controller must be handed down at each level.
	for _, d := range []string{b, dir} {
		_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c.name), 0o600)
	}
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	return err == nil && strings.Contains(string(data), c.name)
}

// joinCgroups puts this process, the shim, and so its child into groups with the container's limits. What cannot be
// enforced here was said in Info.
func joinCgroups(platform, id string, l engine.Limits) {
	for _, c := range controllers {
		if !c.writable(platform) {
			continue
		}
		dir, unified := c.dir(platform, id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			continue
		}
		apply := c.v1
		if unified {
			apply = c.v2
		}
		_ = apply(dir, l)
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
}

func oomKilled(platform, id string) bool {
	dir, unified := controllers[0].dir(platform, id)
	file, key := "memory.oom_control", "oom_kill "
	if unified {
		file = "memory.events"
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return false
	}
	for _, line := range strings.Split(string(data), "\n") {
		if n, ok := strings.CutPrefix(line, key); ok {
			return n != "0"
		}
	}
	return false
}

// removeCgroups removes a container's groups, and the platform's when it was the last.
func removeCgroups(platform, id string) {
	for _, c := range controllers {
		dir, _ := c.dir(platform, id)
		_ = os.Remove(dir)
		_ = os.Remove(filepath.Dir(dir))
	}
}
