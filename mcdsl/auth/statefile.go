package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

// The state file lets a service that restarts while MCIAS is away go on within its budgets. It is not signed:
// whoever can replace it can replace the service's database too. The checksum is against torn and flipped bytes.
type fileState struct {
	Version   int       `json:"version"`
	Service   string    `json:"service"`
	Instance  string    `json:"instance"`
	Heartbeat time.Time `json:"heartbeat"`
	Snapshot  []byte    `json:"snapshot"` // mcias.v1.WatchSnapshot; nil = only the instance is known
	Sum       []byte    `json:"sum"`      // SHA-256 over the snapshot and the heartbeat
}

const (
	stateVersion  = 1
	maxStateFile  = 256 << 20
	saveHeartbeat = time.Minute // the heartbeat alone is written at most this often
)

func (f *fileState) sum() []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n%s\n%s\n%s\n", f.Version, f.Service, f.Instance, f.Heartbeat.UTC().Format(time.RFC3339Nano))
	h.Write(f.Snapshot)
	return h.Sum(nil)
}

// load reads the state file. A missing one is no error.
func (v *Verifier) load() error {
	if v.conf.StateFile == "" {
		return nil
	}
	file, err := os.Open(v.conf.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxStateFile))
	if err != nil {
		return err
	}
	var f fileState
	if err := json.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if f.Version != stateVersion || !bytes.Equal(f.Sum, f.sum()) {
		return errors.New("checksum or version does not fit")
	}
	if f.Service != v.conf.Service {
		return fmt.Errorf("belongs to %s", f.Service)
	}
	if f.Instance != "" {
		v.instance = f.Instance
	}
	if f.Snapshot == nil {
		return nil
	}
	if ahead := f.Heartbeat.Sub(v.clock.Now()); ahead > futureLeeway {
		return fmt.Errorf("written %s in the future: check the clock", ahead.Round(time.Second))
	}
	var snap mciasv1.WatchSnapshot
	if err := proto.Unmarshal(f.Snapshot, &snap); err != nil {
		return fmt.Errorf("parse snapshot: %w", err)
	}
	st, err := fromSnapshot(&snap, v.conf.Service, v.clock.Now())
	if err != nil {
		return err
	}
	beat := f.Heartbeat
	v.state.Store(st)
	v.saved, v.lastSave = st, beat
	v.beat.Store(&beat)
	return nil
}

// save writes the state file: when the state changed or force is set, and once a minute for the heartbeat.
// v.mu is held.
func (v *Verifier) save(force bool) error {
	st, beat, now := v.state.Load(), v.beat.Load(), v.clock.Now()
	if v.conf.StateFile == "" || st == nil || beat == nil || v.immediate.Load() {
		return nil
	}
	if v.saved == st && !force && now.Sub(v.lastSave) < saveHeartbeat {
		return nil
	}
	snap, err := proto.Marshal(st.snapshot())
	if err != nil {
		return err
	}
	f := fileState{Version: stateVersion, Service: v.conf.Service, Instance: v.instance, Heartbeat: beat.UTC().Round(0), Snapshot: snap}
	f.Sum = f.sum()
	raw, err := json.Marshal(&f)
	if err != nil {
		return err
	}
	if err := writeFile(v.conf.StateFile, raw); err != nil {
		return err
	}
	v.saved, v.lastSave = st, now
	return nil
}

// writeFile replaces a private file so that a power cut leaves the old or the new one.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // created 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once it was renamed
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
