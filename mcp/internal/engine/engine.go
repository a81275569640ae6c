package engine

import (
	"context"
	"net/netip"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Engine runs containers on this node.
type Engine interface {
	// Info says which engine this is and what it does not enforce.
	Info(ctx context.Context) (Info, error)

	// HasImage reports whether an image of this manifest digest is there.
	HasImage(ctx context.Context, digest string) (bool, error)
	// LoadImage makes an image available under its manifest digest. Its blobs were verified before.
	LoadImage(ctx context.Context, digest string, img v1.Image) error
	// RemoveImage forgets an image; one that is not there is no error.
	RemoveImage(ctx context.Context, digest string) error

	// EnsureNetwork makes the network of a service and returns the host's address on it; on an engine without networks
	// of its own that is loopback.
	EnsureNetwork(ctx context.Context, name string, labels map[string]string) (netip.Addr, error)
	// RemoveNetwork removes it; one that is not there is no error.
	RemoveNetwork(ctx context.Context, name string) error

	// Create makes a container that does not run yet and returns its id.
	Create(ctx context.Context, s Spec) (string, error)
	// Start runs it, once.
	Start(ctx context.Context, id string) error
	// Stop asks with a signal, waits for grace, then kills. A container that does not run is no error.
	Stop(ctx context.Context, id, signal string, grace time.Duration) error
	// Remove deletes a container, killing it if it runs; one that is not there is no error.
	Remove(ctx context.Context, id string) error
	// List returns the containers that carry all these labels.
	List(ctx context.Context, labels map[string]string) ([]Container, error)
	// Inspect returns one container; ok is false when there is none of this id.
	Inspect(ctx context.Context, id string) (c Container, ok bool, err error)
	// Wait returns when the container does not run any more.
	Wait(ctx context.Context, id string) (Container, error)

	// Logs calls fn for each line, oldest first, and with Follow for new ones until the container ends.
	Logs(ctx context.Context, id string, opts LogOptions, fn func(LogLine) error) error
	// Events reports containers that started or died, until ctx ends. Events are hints: list after subscribing.
	Events(ctx context.Context) (<-chan Event, error)
}

// Info describes an engine.
type Info struct {
	Kind        string // docker, podman, proc
	Version     string
	HostNetwork bool     // containers share the host's network: they listen on the published port itself
	Weaker      []string // what it does not enforce, in words
}

// Spec is what a container is made from.
type Spec struct {
	Name     string // for people
	Digest   string // manifest digest of its image
	Command  []string
	Env      []string // NAME=value; never a secret but those a definition names
	Labels   map[string]string
	UID, GID uint32
	Mounts   []Mount
	Ports    []Port
	Network  string
	Aliases  []string
	Hosts    map[string]string // name → address, for /etc/hosts
	Limits   Limits

	// BindService grants CAP_NET_BIND_SERVICE, the only capability any of ours gets.
	BindService bool
	Hostname    string
}

// Mount binds a host folder or file into the container. A source that is missing is an error.
type Mount struct {
	Source   string
	Target   string
	ReadOnly bool
}

// Port publishes a container's port on the host.
type Port struct {
	Container uint16
	Host      uint16
	Addr      netip.Addr
}

// Limits bound a container; zero is no bound.
type Limits struct {
	Memory int64   // bytes
	CPU    float64 // cores
	PIDs   int64
}

// State is what a container does.
type State string

// The states an engine can see.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Container is one container as the engine sees it.
type Container struct {
	ID       string
	Name     string
	Digest   string
	State    State
	Labels   map[string]string
	PID      int
	Started  time.Time
	Finished time.Time
	ExitCode int
	OOM      bool
	Error    string // why it could not start
}

// LogOptions choose lines.
type LogOptions struct {
	Tail   int // 0 = all
	Follow bool
}

// LogLine is one line a container wrote, without its end.
type LogLine struct {
	Time   time.Time
	Stream string // stdout or stderr
	Text   string
}

// Event is a hint that something happened to a container.
type Event struct {
	ID     string
	Kind   string // start, die
	Labels map[string]string
}
