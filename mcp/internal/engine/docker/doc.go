// Package docker runs containers by the engine API of Docker, or of Podman on its socket, through the Go client and never
// through the docker command.
//
// Images come from the node's own store (ImageLoad) and are tagged mcp-<platform>:<hex of the manifest digest>, so that a
// container's image names the digest it was made from. What was loaded is compared with the manifest before anything
// runs from it. Only the agent starts things: the restart policy is always "no".
//
// Hardening is not a setting: read-only root, a private tmpfs at /tmp, no capabilities, no new privileges, the engine's
// default seccomp profile. BindService is ignored: in a network of its own a container may bind any port, and on the
// host's network Docker could not grant it to an ordinary user, which is why MC-Proxy and MCNS run on proc.
package docker
