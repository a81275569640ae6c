package db_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"metacircular.net/mcdsl/db"
)

// TestMain lets the test binary be its own victim: with MC_DB_CRASH set it only writes until killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("MC_DB_CRASH"); path != "" {
		crashWriter(path)
		return
	}
	os.Exit(m.Run())
}

// crashWriter writes from four goroutines and prints each number once it is acknowledged.
func crashWriter(path string) {
	ctx := context.Background()
	d, err := db.Open(ctx, db.Config{Path: path, Service: "sample", Migrations: schema})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var next int
	if err := d.Read(ctx, func(v *db.View) error {
		return v.QueryRow("SELECT coalesce(max(id), 0) FROM item").Scan(&next)
	}); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				mu.Lock()
				next++
				n := next
				mu.Unlock()
				if err := d.Write(ctx, func(tx *db.Tx) error {
					_, err := tx.Exec("INSERT INTO item(id, name) VALUES (?, ?)", n, strconv.Itoa(n))
					return err
				}); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(n)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// kill -9 during writes: the database is whole and every acknowledged write is there.
func TestKillDuringWrites(t *testing.T) {
	t.Parallel()
	rounds, acks := 3, 100
	if os.Getenv("MC_SOAK") == "1" {
		rounds, acks = 50, 1000
	}
	path := filepath.Join(t.TempDir(), "sample.db")
	acked := map[int]bool{}
	for range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "MC_DB_CRASH="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(out)
		for i := 0; sc.Scan(); i++ {
			n, err := strconv.Atoi(sc.Text())
			if err != nil {
				t.Fatalf("the writer said %q", sc.Text())
			}
			acked[n] = true
			if i == acks {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if err := db.CheckFile(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		d, err := db.Open(t.Context(), db.Config{Path: path, Service: "sample", Migrations: schema})
		if err != nil {
			t.Fatal(err)
		}
		have := map[int]bool{}
		if err := d.Read(t.Context(), func(v *db.View) error {
			rows, err := v.Query("SELECT id FROM item")
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var n int
				if err := rows.Scan(&n); err != nil {
					return err
				}
				have[n] = true
			}
			return rows.Err()
		}); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for n := range acked {
			if !have[n] {
				t.Fatalf("write %d was acknowledged and is gone", n)
			}
		}
	}
	t.Logf("%d acknowledged writes survived %d kills", len(acked), rounds)
}
