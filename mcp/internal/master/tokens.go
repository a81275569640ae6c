package master

import (
	"context"
	"sync"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
)

// exchanged keeps tokens that were exchanged for a caller, so that a series of calls costs MCIAS one. The key is the
// presented token's id: a revoked one is refused before it gets here, and what was made from it dies with its session.
type exchanged struct {
	minter *auth.Minter
	clock  clock.Clock

	mu   sync.Mutex // guards held
	held map[tokenKey]auth.Minted
}

type tokenKey struct{ jti, node string }

const (
	maxHeld = 1024
	margin  = 30 * time.Second // a token this near its end is exchanged anew
)

func newExchanged(m *auth.Minter, c clock.Clock) *exchanged {
	return &exchanged{minter: m, clock: clock.Or(c), held: map[tokenKey]auth.Minted{}}
}

// Audience is the audience of a node's agent.
func Audience(node string) string { return "mcp/" + node }

// token returns a token of the present caller for one node.
func (x *exchanged) token(ctx context.Context, node string) (string, error) {
	c := auth.From(ctx)
	if c.Kind == auth.Socket {
		return "", fault.New(fault.Precondition, "the master can't act at node %s for a local administrator, who has no token", node).
			WithReason("NO_TOKEN").WithNext("log in, or ask the node itself: mcp --local …")
	}
	key, now := tokenKey{c.JTI, node}, x.clock.Now()
	x.mu.Lock()
	t, ok := x.held[key]
	x.mu.Unlock()
	if ok && now.Add(margin).Before(t.Expires) {
		return t.Token, nil
	}
	t, err := x.minter.Exchange(ctx, Audience(node))
	if err != nil {
		return "", err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.held) >= maxHeld {
		for k, v := range x.held {
			if now.After(v.Expires) {
				delete(x.held, k)
			}
		}
	}
	if len(x.held) < maxHeld { // full of live ones: work on without keeping
		x.held[key] = t
	}
	return t.Token, nil
}
