package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

//go:embed static/app.css static/htmx.min.js static/icon.svg
var staticFiles embed.FS

// static serves the files under names that carry their hash, so that browsers may keep them for ever.
type static struct {
	byName map[string]string // app.css → /static/app.3f1c9a07.css
	byPath map[string][]byte // app.3f1c9a07.css → content
}

func loadStatic() (*static, error) {
	s := &static{byName: map[string]string{}, byPath: map[string][]byte{}}
	for _, name := range []string{"app.css", "htmx.min.js", "icon.svg"} {
		data, err := staticFiles.ReadFile("static/" + name)
		if err != nil {
			return nil, fmt.Errorf("web: %w", err)
		}
		sum := sha256.Sum256(data)
		ext := path.Ext(name)
		hashed := strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:4]) + ext
		s.byName[name], s.byPath[hashed] = "/static/"+hashed, data
	}
	return s, nil
}

func (s *static) serve(w http.ResponseWriter, r *http.Request) {
	data, ok := s.byPath[chi.URLParam(r, "file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, chi.URLParam(r, "file"), time.Time{}, bytes.NewReader(data))
}
