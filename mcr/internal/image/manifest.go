package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The four media types of manifests served here.
const (
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// MaxManifest is the size above which no manifest is accepted: 4 MiB, as the distribution specification asks for.
const MaxManifest = 4 << 20

// Limits of what one manifest may hold.
const (
	maxDepth    = 32
	maxChildren = 10_000
)

// Kind says what a manifest refers to.
type Kind string

// The kinds of children.
const (
	Config  Kind = "config"
	Layer   Kind = "layer"
	Child   Kind = "manifest"
	Foreign Kind = "foreign" // a layer that may be absent: non-distributable
)

// Descriptor names content.
type Descriptor struct {
	Kind         Kind
	MediaType    string
	Digest       digest.Digest
	Size         int64
	ArtifactType string
	Annotations  map[string]string
	Platform     string // os/arch[/variant], only of an index's children
}

// Manifest is what the registry knows of a manifest's body.
type Manifest struct {
	MediaType    string
	ArtifactType string        // as shown by the referrers API: a manifest's config type if it names none
	Subject      digest.Digest // "" = none
	Annotations  map[string]string
	Children     []Descriptor // in the order of the body: config first
}

// IsIndex reports whether a media type is that of an index.
func IsIndex(mediaType string) bool { return mediaType == OCIIndex || mediaType == DockerList }

// Known reports whether a media type is one of the four.
func Known(mediaType string) bool {
	return mediaType == OCIManifest || mediaType == DockerManifest || IsIndex(mediaType)
}

// MediaType returns the type of a Content-Type header without its parameters.
func MediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return strings.TrimSpace(contentType)
	}
	return t
}

// Parse reads a manifest that was pushed with a Content-Type. An error says what to change.
func Parse(contentType string, body []byte) (*Manifest, error) {
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	top, err := object(body)
	if err != nil {
		return nil, err
	}
	declared := MediaType(contentType)
	inBody, err := top.str("mediaType")
	if err != nil {
		return nil, err
	}
	if declared == "" {
		declared = inBody
	}
	if strings.HasPrefix(declared, "application/vnd.docker.distribution.manifest.v1+") {
		return nil, errors.New("docker schema 1 manifests are not served; push with a client from after 2017")
	}
	if !Known(declared) {
		return nil, fmt.Errorf("media type %.100q is not a manifest's; the OCI and Docker v2 image and index types are", declared)
	}
	if inBody != "" && inBody != declared {
		return nil, fmt.Errorf("the body says mediaType %.100q, the Content-Type %q", inBody, declared)
	}
	if v, err := top.num("schemaVersion"); err != nil || v != 2 {
		return nil, errors.New("schemaVersion is not 2")
	}
	m := &Manifest{MediaType: declared}
	if m.Annotations, err = top.strings("annotations"); err != nil {
		return nil, err
	}
	if m.ArtifactType, err = top.str("artifactType"); err != nil {
		return nil, err
	}
	if raw, ok := top.get("subject"); ok {
		d, err := descriptor("subject", raw)
		if err != nil {
			return nil, err
		}
		m.Subject = d.Digest
	}
	if IsIndex(declared) {
		return m, m.index(top)
	}
	return m, m.image(top)
}

func (m *Manifest) image(top fields) error {
	if _, both := top.get("manifests"); both {
		return errors.New("an image manifest with manifests: it would be an index to other clients")
	}
	raw, ok := top.get("config")
	if !ok {
		return errors.New("an image manifest without config")
	}
	config, err := descriptor("config", raw)
	if err != nil {
		return err
	}
	config.Kind = Config
	if m.ArtifactType == "" {
		m.ArtifactType = config.MediaType
	}
	layers, err := top.descriptors("layers")
	if err != nil {
		return err
	}
	m.Children = append(m.Children, config)
	for _, l := range layers {
		l.Kind = Layer
		if foreign(l.MediaType) {
			l.Kind = Foreign
		}
		m.Children = append(m.Children, l)
	}
	return nil
}

func (m *Manifest) index(top fields) error {
	for _, k := range []string{"layers", "config", "fsLayers"} {
		if _, both := top.get(k); both {
			return fmt.Errorf("an index with %s: it would be an image to other clients", k)
		}
	}
	children, err := top.descriptors("manifests")
	for i := range children {
		children[i].Kind = Child
	}
	m.Children = children
	return err
}

// foreign reports whether a layer's type says that it lies elsewhere and need not be pushed.
func foreign(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		mediaType == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
}

func descriptor(what string, raw json.RawMessage) (Descriptor, error) {
	var d Descriptor
	f, err := object(raw)
	if err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	if d.MediaType, err = f.str("mediaType"); err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	text, err := f.str("digest")
	if err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	if d.Digest, err = ParseDigest(text); err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	if d.Size, err = f.num("size"); err != nil || d.Size < 0 {
		return d, fmt.Errorf("%s: size is not a number of bytes", what)
	}
	if d.ArtifactType, err = f.str("artifactType"); err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	if d.Annotations, err = f.strings("annotations"); err != nil {
		return d, fmt.Errorf("%s: %w", what, err)
	}
	if raw, ok := f.get("platform"); ok {
		p, err := object(raw)
		if err != nil {
			return d, fmt.Errorf("%s.platform: %w", what, err)
		}
		var parts []string
		for _, k := range []string{"os", "architecture", "variant"} {
			if v, err := p.str(k); err != nil {
				return d, fmt.Errorf("%s.platform: %w", what, err)
			} else if v != "" {
				parts = append(parts, v)
			}
		}
		d.Platform = strings.Join(parts, "/")
	}
	return d, nil
}
