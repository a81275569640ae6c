package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/client"

	"metacircular.net/mcdsl/fault"
)

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// repository holds this platform's images; a second platform on the same engine has its own, so that neither removes the
// other's.
func (e *Engine) repository() string { return "mcp-" + strings.ToLower(e.cfg.Platform) }

// tag is the name an image has in the engine.
func (e *Engine) tag(digest string) (string, error) {
	if !digestPattern.MatchString(digest) {
		return "", fault.New(fault.Invalid, "%q is not a sha256 digest", digest)
	}
	return e.repository() + ":" + digest[len("sha256:"):], nil
}

// digestOf is the inverse of tag.
func (e *Engine) digestOf(tag string) (digest, repository string, ours bool) {
	repo, hexDigest, ok := strings.Cut(tag, ":")
	digest = "sha256:" + hexDigest
	if !ok || repo != e.repository() || !digestPattern.MatchString(digest) {
		return "", "", false
	}
	return digest, repo, true
}

// HasImage reports whether an image is loaded.
func (e *Engine) HasImage(ctx context.Context, digest string) (bool, error) {
	tag, err := e.tag(digest)
	if err != nil {
		return false, err
	}
	res, err := e.api.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("reference", tag)})
	if err != nil {
		return false, away(err, "list images")
	}
	return len(res.Items) > 0, nil
}

// LoadImage sends an image to the engine as a `docker save` archive, and compares what the engine made of it.
func (e *Engine) LoadImage(ctx context.Context, digest string, img v1.Image) error {
	if ok, err := e.HasImage(ctx, digest); err != nil || ok {
		return err
	}
	got, err := img.Digest()
	if err != nil {
		return fmt.Errorf("read image %s: %w", digest, err)
	}
	if got.String() != digest {
		return fault.New(fault.Invalid, "the image is %s, not %s", got, digest)
	}
	tag, err := e.tag(digest)
	if err != nil {
		return err
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		return fmt.Errorf("name image %s: %w", digest, err)
	}
	if err := e.send(ctx, ref, img); err != nil {
		return err
	}
	if err := e.compare(ctx, tag, img); err != nil {
		return errors.Join(err, e.RemoveImage(ctx, digest))
	}
	return nil
}

func (e *Engine) send(ctx context.Context, ref name.Tag, img v1.Image) error {
	pr, pw := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		pw.CloseWithError(tarball.Write(ref, img, pw))
	}()
	res, err := e.api.ImageLoad(ctx, pr, client.ImageLoadWithQuiet(true))
	pr.CloseWithError(io.ErrClosedPipe)
	<-sent
	if err != nil {
		return away(err, "load image %s", ref)
	}
	defer res.Close()
	// A failure comes as one more message after status 200.
	dec := json.NewDecoder(io.LimitReader(res, 1<<20))
	for {
		var m struct {
			Error string `json:"error"`
		}
		if err := dec.Decode(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("load image %s: read the engine's answer: %w", ref, err)
		}
		if m.Error != "" {
			return fault.New(fault.Precondition, "the engine refused image %s: %s", ref, m.Error)
		}
	}
}

// compare proves that the engine holds what the manifest names: Docker's image id is the digest of the configuration;
// with containerd's store it is another one, and the layers are compared.
func (e *Engine) compare(ctx context.Context, tag string, img v1.Image) error {
	got, err := e.api.ImageInspect(ctx, tag)
	if err != nil {
		return away(err, "look at image %s", tag)
	}
	want, err := img.ConfigName()
	if err != nil {
		return fmt.Errorf("read image %s: %w", tag, err)
	}
	if got.ID == want.String() {
		return nil
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("read image %s: %w", tag, err)
	}
	same := len(got.RootFS.Layers) == len(cf.RootFS.DiffIDs)
	for i := 0; same && i < len(cf.RootFS.DiffIDs); i++ {
		same = got.RootFS.Layers[i] == cf.RootFS.DiffIDs[i].String()
	}
	if !same {
		return fault.New(fault.Precondition, "the engine holds another image than the manifest of %s names", tag).WithReason("IMAGE_DIFFERS")
	}
	return nil
}

// RemoveImage removes our name of an image; its layers go with the last name.
func (e *Engine) RemoveImage(ctx context.Context, digest string) error {
	tag, err := e.tag(digest)
	if err != nil {
		return err
	}
	if ok, err := e.HasImage(ctx, digest); err != nil || !ok {
		return err
	}
	if _, err := e.api.ImageRemove(ctx, tag, client.ImageRemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
		return away(err, "remove image %s", tag)
	}
	return nil
}

// bridgeName makes the name of a network's bridge: at most 15 bytes, and always mc… so that a filter can match them all.
func bridgeName(network string) string {
	sum := sha256.Sum256([]byte(network))
	return "mc" + hex.EncodeToString(sum[:6])
}
