package store

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/fault"
)

// The stable words of refusals made here.
const (
	ReasonPinned       = "PINNED"
	ReasonImmutable    = "TAG_IMMUTABLE"
	ReasonInUse        = "BLOB_IN_USE"
	ReasonMoved        = "TAG_MOVED"
	ReasonUnknownRepo  = "REPOSITORY_UNKNOWN"
	ReasonUnknown      = "MANIFEST_UNKNOWN"
	ReasonUnknownBlob  = "BLOB_UNKNOWN"
	ReasonStaleGen     = "STALE_GENERATION"
	ReasonConfigOwned  = "CONFIG_OWNED"
	ReasonTooMany      = "TOO_MANY_UPLOADS"
	ReasonUnknownOp    = "OPERATION_UNKNOWN"
	ReasonUnknownEntry = "RULE_UNKNOWN"
)

// MissingError says which children of a manifest its repository does not hold.
type MissingError struct{ Digests []digest.Digest }

// Error names them all.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%d of the manifest's parts are not in this repository: %v", len(e.Digests), e.Digests)
}

func errNoRepo(name string) error {
	return fault.New(fault.NotFound, "repository %s is not known", name).WithReason(ReasonUnknownRepo).
		WithNext("mcr repo list")
}

func errNoManifest(repo, ref string) error {
	return fault.New(fault.NotFound, "%s has no %s", repo, ref).WithReason(ReasonUnknown).
		WithNext("mcr tag list %s", repo)
}

func errNoBlob(repo string, d digest.Digest) error {
	return fault.New(fault.NotFound, "%s has no blob %s", repo, d).WithReason(ReasonUnknownBlob)
}

func errImmutable(repo, tag, rule string) error {
	return fault.New(fault.Conflict, "tag %s of %s is held by the immutable rule %q", tag, repo, rule).
		WithReason(ReasonImmutable).WithNext("push under another tag")
}

func errPinned(digest, owner, reason string) error {
	return fault.New(fault.Conflict, "%s is pinned by %s (%s)", digest, owner, reason).
		WithReason(ReasonPinned).WithNext("undeploy what runs it, or delete with --force")
}
