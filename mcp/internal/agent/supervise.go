package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/cli"
)

// How the parent spaces restarts of an agent that keeps ending.
const firstPause, longestPause, calm = 200 * time.Millisecond, 10 * time.Second, time.Minute

// supervise is the small parent that stands in for systemd where there is none: it restarts the agent until it is told to
// stop, and takes the agent with it then. Containers run on without either.
func supervise(e *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use: "supervise", Short: "Run the agent and start it again whenever it ends", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			pidFile := filepath.Join(e.Root, "run", "mcp-agent.pid")
			if err := os.WriteFile(pidFile, []byte(fmt.Sprintln(os.Getpid())), 0o600); err != nil {
				return fmt.Errorf("write %s: %w", pidFile, err)
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			self, err := os.Executable()
			if err != nil {
				return err
			}
			// Whoever knows this process only reaches the agent through it.
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			pause := firstPause
			for ctx.Err() == nil {
				begin := time.Now()
				cmd := exec.CommandContext(ctx, self, "agent", "server", "--root", e.Root)
				cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
				cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
				cmd.WaitDelay = 25 * time.Second
				err := runForwarding(cmd, hangup)
				var exit *exec.ExitError
				if errors.As(err, &exit) && exit.ExitCode() == 2 {
					return fmt.Errorf("the agent's configuration cannot be used: %w", err)
				}
				if time.Since(begin) > calm {
					pause = firstPause
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
				pause = min(2*pause, longestPause)
			}
			_ = os.Remove(pidFile)
			return nil
		},
	}
}

// runForwarding runs a command and hands it the signals that come meanwhile.
func runForwarding(cmd *exec.Cmd, signals <-chan os.Signal) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case s := <-signals:
			_ = cmd.Process.Signal(s) // one that ended meanwhile is found by Wait
		}
	}
}
