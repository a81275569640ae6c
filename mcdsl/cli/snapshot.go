package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/archive"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/run"
)

// source says what a snapshot of the service is made of.
func (s *Service[T]) source(cfg T, dir string) (archive.Source, error) {
	src := archive.Source{Service: s.Name, Version: Version, Dir: dir, Exclude: func(rel string) bool {
		if rel == stateFolder || strings.HasPrefix(rel, stateFolder+"/") {
			return true
		}
		return s.Exclude != nil && s.Exclude(cfg, rel)
	}}
	sec := sectionsOf(&cfg)
	if sec.database == nil {
		return src, nil
	}
	rel, err := filepath.Rel(dir, sec.database.Path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return src, fault.New(fault.Invalid, "[database] path %s is not in the service's folder %s", sec.database.Path, dir)
	}
	src.Databases = []string{filepath.ToSlash(rel)}
	return src, nil
}

// schemas returns the newest schema this binary knows, by database.
func (s *Service[T]) schemas(src archive.Source) map[string]int {
	newest := 0
	for n := range s.Steps {
		newest = max(newest, n)
	}
	if s.Migrations != nil {
		// An unreadable embedded file system cannot be; then the schema is simply not checked here.
		_ = fs.WalkDir(s.Migrations, ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(name, ".sql") {
				digits, _, _ := strings.Cut(path.Base(name), "_")
				if n, err := strconv.Atoi(digits); err == nil {
					newest = max(newest, n)
				}
			}
			return nil
		})
	}
	out := map[string]int{}
	for _, d := range src.Databases {
		if newest > 0 {
			out[d] = newest
		}
	}
	return out
}

// snapshotter makes a verified snapshot as often as [backup] says.
func (s *Service[T]) snapshotter(cfg T, b *Builder) run.Component {
	return run.Background("snapshots", func(ctx context.Context) error {
		every, keep := b.sec.backup.Every.D(), b.sec.backup.Keep
		for {
			wait := every
			if list, err := archive.List(filepath.Join(b.Dir, "backups"), b.Service); err == nil && len(list) > 0 {
				wait = max(time.Minute, every-b.Clock.Now().Sub(list[0].Time))
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			if name, err := s.snapshot(ctx, cfg, b.Dir, "", keep); err != nil && ctx.Err() == nil {
				b.Log.Error("snapshot failed", "err", err)
			} else if err == nil {
				b.Log.Info("snapshot made and verified", "file", name)
			}
		}
	})
}

// snapshot makes one, proves it and removes old ones.
func (s *Service[T]) snapshot(ctx context.Context, cfg T, dir, out string, keep int) (string, error) {
	src, err := s.source(cfg, dir)
	if err != nil {
		return "", err
	}
	if out == "" {
		out = filepath.Join(dir, "backups")
	}
	name, _, err := archive.Create(ctx, src, out)
	if err != nil {
		return "", err
	}
	if _, err := archive.VerifyAndMark(ctx, name, archive.Expect{Service: s.Name, Schemas: s.schemas(src)}); err != nil {
		return name, fmt.Errorf("%s was written but cannot be restored: %w", name, err)
	}
	if keep > 0 {
		if _, err := archive.Prune(out, s.Name, keep); err != nil {
			return name, err
		}
	}
	return name, nil
}

func (s *Service[T]) snapshotCommand(e *Env) *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "snapshot", Short: "Write a snapshot and prove that it can be restored", Args: cobra.NoArgs,
		Example: fmt.Sprintf("  %s snapshot\n  %s snapshot verify FILE", s.Name, s.Name),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, dir, err := s.loadDir(e)
			if err != nil {
				return err
			}
			name, err := s.snapshot(cmd.Context(), cfg, dir, out, 0)
			if err != nil {
				return err
			}
			return e.Emit(map[string]any{"file": name, "verified": true}, func(w io.Writer) { _, _ = fmt.Fprintln(w, name) })
		}}
	cmd.Flags().StringVar(&out, "out", "", "folder to write to (default backups/ of the service's folder)")
	cmd.AddCommand(&cobra.Command{Use: "verify FILE", Short: "Prove a snapshot by restoring it to a scratch folder", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, dir, err := s.loadDir(e)
			if err != nil {
				return err
			}
			src, err := s.source(cfg, dir)
			if err != nil {
				return err
			}
			m, err := archive.VerifyAndMark(cmd.Context(), args[0], archive.Expect{Service: s.Name, Schemas: s.schemas(src)})
			if err != nil {
				return err
			}
			return e.Emit(m, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s is good: %s %s of %s, %d files.\n", args[0], m.Service, m.Version, m.Time.UTC().Format(time.RFC3339), len(m.Files))
			})
		}})
	return cmd
}

func (s *Service[T]) restoreCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "restore FILE", Short: "Put a snapshot in place of the data; the server must be stopped", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, dir, err := s.loadDir(e)
			if err != nil {
				return err
			}
			src, err := s.source(cfg, dir)
			if err != nil {
				return err
			}
			if err := e.Confirm(fmt.Sprintf("The data in %s is moved aside and replaced by %s", dir, args[0])); err != nil {
				return err
			}
			m, before, err := archive.Restore(cmd.Context(), args[0], archive.RestoreOptions{Target: src, Schemas: s.schemas(src), OnRestore: s.OnRestore})
			if err != nil {
				return err
			}
			return e.Emit(map[string]any{"service": m.Service, "time": m.Time, "before": before}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Restored %s of %s. What was there before lies in %s.\n", m.Service, m.Time.UTC().Format(time.RFC3339), before)
			})
		}}
}

// loadDir loads the configuration and returns the service's folder.
func (s *Service[T]) loadDir(e *Env) (T, string, error) {
	cfg, _, err := s.load(e)
	if err != nil {
		return cfg, "", err
	}
	dir, err := filepath.Abs(filepath.Dir(e.Configured()))
	return cfg, dir, err
}
