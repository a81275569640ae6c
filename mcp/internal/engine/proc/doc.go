// Package proc runs OCI images without a daemon: each container is a process in namespaces of its own, on the image's
// files mounted read-only, with one user, no capabilities and a seccomp filter, on the host's network.
//
// Three processes make a container. The agent's engine writes its folder and starts a shim. The shim (`mcp proc-shim`)
// is small, belongs to nobody, and outlives the agent: it owns the log file and, at the end, the exit status. Its only
// child (`mcp proc-init`) sets the cage up from inside and becomes the program, which is PID 1 there. If the shim dies,
// the kernel kills the child.
//
// The container's folder is the whole truth: spec.json (labels included), state.json (process ids with start times, so
// that a reused id is never taken for ours), log, exit.json. An agent that starts anew reads the folders and knows.
//
// What it cannot do is said in Info.Weaker: as an unprivileged user all containers share that user, and limits hold only
// where cgroups can be written.
package proc
