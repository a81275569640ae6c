package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	seccomp "github.com/elastic/go-seccomp-bpf"

	"metacircular.net/mcp/internal/engine"
)

// cageAttr makes the namespaces the child is born into. Without root it gets a user namespace too, in which its own user
// keeps its number: another number would make our Unix sockets refuse it.
func cageAttr(s shimSpec) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if uid := os.Geteuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// initMain is PID 1 of the new namespaces: it builds the file system, gives everything up, and becomes the program.
// Descriptor 3 takes the reason if it cannot; exec closes it.
func initMain(dir string) int {
	runtime.LockOSThread()
	report := os.NewFile(3, "report")
	syscall.CloseOnExec(3)
	if err := become(dir); err != nil {
		fmt.Fprint(report, err)
		return 126
	}
	return 126
}

func become(dir string) error {
	var s shimSpec
	if err := readJSON(filepath.Join(dir, "spec.json"), &s); err != nil {
		return err
	}
	if err := buildRoot(dir, s); err != nil {
		return err
	}
	hostname := s.Hostname
	if hostname == "" {
		hostname = s.Name
	}
	if err := unix.Sethostname([]byte(cut(hostname, 64))); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	argv := s.Command
	if len(argv) == 0 {
		return fmt.Errorf("no command to run")
	}
	path, err := lookPath(argv[0])
	if err != nil {
		return err
	}
	if err := dropPrivileges(s.Spec); err != nil {
		return err
	}
	// Everything but the three standard streams closes at exec: a descriptor that leaks is a door (CVE-2024-21626).
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "HOSTNAME=" + hostname}, s.Env...)
	if err := loadFilter(); err != nil {
		return fmt.Errorf("load the system call filter: %w", err)
	}
	if err := syscall.Exec(path, argv, env); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func lookPath(name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return name, nil
	}
	for _, d := range []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin", ""} {
		p := d + "/" + name
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("the image has no program %q", name)
}

// buildRoot mounts the image read-only, the container's mounts over it, small file systems of its own, and makes that
// the root. All mounts here are private: nothing of it is seen outside.
func buildRoot(dir string, s shimSpec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	if err := remount(s.Root, true); err != nil {
		return fmt.Errorf("mount the image read-only: %w", err)
	}
	at := func(p string) string { return filepath.Join(s.Root, p) }
	if err := unix.Mount("proc", at("proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", at("tmp"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64m,mode=1777"); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	if err := mountDev(at("dev")); err != nil {
		return err
	}
	mounts := append([]engine.Mount{
		{Source: filepath.Join(dir, "hosts"), Target: "/etc/hosts", ReadOnly: true},
		{Source: filepath.Join(dir, "resolv.conf"), Target: "/etc/resolv.conf", ReadOnly: true},
	}, s.Mounts...)
	for _, m := range mounts {
		if err := unix.Mount(m.Source, at(m.Target), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		if err := remount(at(m.Target), m.ReadOnly); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	// /proc/sys and friends are one global tree: read-only, or hidden where there is nothing to read.
	for _, p := range []string{"proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus", "proc/fs"} {
		if err := unix.Mount(at(p), at(p), "", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			_ = remount(at(p), true)
		}
	}
	for _, p := range []string{"proc/kcore", "proc/keys", "proc/timer_list"} {
		_ = unix.Mount(at("dev/null"), at(p), "", unix.MS_BIND, "")
	}
	if err := unix.Chdir(s.Root); err != nil {
		return fmt.Errorf("enter the image: %w", err)
	}
	// pivot_root(".", "."): the old root lies under the new one and is detached at once (pivot_root(2), NOTES).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// remount applies nosuid and nodev, and read-only on request. Flags the mount has already may not be lost: in a user
// namespace they are locked.
func remount(path string, readOnly bool) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV)
	for have, flag := range map[int64]uintptr{unix.ST_NOEXEC: unix.MS_NOEXEC, unix.ST_RDONLY: unix.MS_RDONLY, unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_RELATIME: unix.MS_RELATIME} {
		if int64(fs.Flags)&have != 0 {
			flags |= flag
		}
	}
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	return unix.Mount("", path, "", flags, "")
}

// mountDev makes a /dev with the six devices a program may expect, bound from the host: making nodes takes a right that
// an unprivileged user has not.
func mountDev(dev string) error {
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=64k,mode=0755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		target := filepath.Join(dev, name)
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
		f.Close()
		if err := unix.Mount("/dev/"+name, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /dev/%s: %w", name, err)
		}
	}
	for link, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(dev, link)); err != nil {
			return fmt.Errorf("make /dev/%s: %w", link, err)
		}
	}
	return nil
}

// dropPrivileges gives up groups, capabilities and root, in the order in which each step still may. It acts on this
// thread only, which is the one that becomes the program.
func dropPrivileges(s engine.Spec) error {
	if os.Geteuid() == 0 {
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			return fmt.Errorf("drop groups: %w", e)
		}
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if s.BindService && c == unix.CAP_NET_BIND_SERVICE {
				continue
			}
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) // EINVAL beyond what this kernel knows
		}
		if s.BindService {
			if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("keep one capability: %w", err)
			}
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(s.GID), uintptr(s.GID), uintptr(s.GID)); e != 0 {
			return fmt.Errorf("become group %d: %w", s.GID, e)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(s.UID), uintptr(s.UID), uintptr(s.UID)); e != 0 {
			return fmt.Errorf("become user %d: %w", s.UID, e)
		}
	}
	// The kernel forgets the parent-death signal when the user changes; without it a killed shim would leave an orphan.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the shim: %w", err)
	}
	var mask uint32
	if s.BindService {
		mask = 1 << unix.CAP_NET_BIND_SERVICE
	}
	if err := setCaps(mask); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no-new-privileges: %w", err)
	}
	return nil
}

// setCaps leaves exactly the capabilities of mask, ambient so that they survive exec.
func setCaps(mask uint32) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	mask &= have[0].Permitted
	data := [2]unix.CapUserData{{Effective: mask, Permitted: mask, Inheritable: mask}}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if mask != 0 {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_BIND_SERVICE, 0, 0); err != nil {
			return fmt.Errorf("keep CAP_NET_BIND_SERVICE: %w", err)
		}
	}
	return nil
}

// denied are system calls no service of ours or yours needs and kernel bugs love; at least what Docker's default
// profile denies to a container without capabilities.
var denied = []string{
	"acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "finit_module",
	"fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "init_module", "io_uring_enter", "io_uring_register",
	"io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind",
	"migrate_pages", "mount", "mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at",
	"open_tree", "perf_event_open", "pivot_root", "process_vm_readv", "process_vm_writev", "ptrace", "query_module",
	"quotactl", "quotactl_fd", "reboot", "request_key", "set_mempolicy", "setns", "settimeofday", "stime", "swapoff",
	"swapon", "_sysctl", "syslog", "sysfs", "umount", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vm86", "vm86old",
}

// loadFilter installs the deny list on this thread. Names this architecture does not have are left out.
func loadFilter() error {
	if !seccomp.Supported() {
		return fmt.Errorf("this kernel has no seccomp filters")
	}
	arch := knownCalls()
	var names []string
	for _, n := range denied {
		if arch[n] {
			names = append(names, n)
		}
	}
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Policy:     seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Action: seccomp.ActionErrno, Names: names}}},
	})
}
