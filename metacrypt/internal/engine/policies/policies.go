// Package policies keeps the rules of package policy in the barrier and the compiled set in memory.
package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/policy"
)

const prefix = "policy/"

// Engine holds the rules. Safe for concurrent use; decisions never wait.
type Engine struct {
	b   *barrier.Barrier
	set atomic.Pointer[policy.Set]

	mu    sync.Mutex // one change at a time
	rules map[string]policy.Rule
}

// Open reads all rules.
func Open(ctx context.Context, b *barrier.Barrier) (*Engine, error) {
	e := &Engine{b: b, rules: map[string]policy.Rule{}}
	err := b.Read(ctx, func(v *barrier.View) error {
		paths, err := v.List(barrier.System, prefix)
		if err != nil {
			return err
		}
		for _, p := range paths {
			val, _, err := v.Get(barrier.System, p)
			if err != nil {
				return err
			}
			var r policy.Rule
			if err := json.Unmarshal(val, &r); err != nil {
				return fmt.Errorf("rule %s: %w", strings.TrimPrefix(p, prefix), err)
			}
			e.rules[r.ID] = r
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e, e.compile(e.rules)
}

func (e *Engine) compile(rules map[string]policy.Rule) error {
	set, err := policy.Compile(list(rules))
	if err != nil {
		return err
	}
	e.set.Store(set)
	return nil
}

// Set returns the compiled rules.
func (e *Engine) Set() *policy.Set { return e.set.Load() }

// Put makes or replaces a rule.
func (e *Engine) Put(ctx context.Context, r policy.Rule) error {
	if err := policy.Check(r); err != nil {
		return err
	}
	val, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode rule: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	next := clone(e.rules)
	next[r.ID] = r
	if len(next) > policy.MaxRules {
		return fault.New(fault.Exhausted, "there are %d rules, the most there can be", policy.MaxRules)
	}
	if old, ok := e.rules[r.ID]; ok {
		if was, err := json.Marshal(old); err == nil && string(was) == string(val) {
			return nil // nothing to do
		}
	}
	err = e.b.Write(ctx, func(tx *barrier.Tx) error {
		_, err := tx.Put(barrier.System, prefix+r.ID, val)
		return err
	})
	if err != nil {
		return err
	}
	e.rules = next
	return e.compile(next)
}

// Delete removes a rule.
func (e *Engine) Delete(ctx context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.rules[id]; !ok {
		return notFound(id)
	}
	err := e.b.Write(ctx, func(tx *barrier.Tx) error {
		_, err := tx.Delete(barrier.System, prefix+id)
		return err
	})
	if err != nil {
		return err
	}
	next := clone(e.rules)
	delete(next, id)
	e.rules = next
	return e.compile(next)
}

// Get returns a rule.
func (e *Engine) Get(id string) (policy.Rule, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, ok := e.rules[id]
	if !ok {
		return policy.Rule{}, notFound(id)
	}
	return r, nil
}

// List returns all rules in the order in which they decide.
func (e *Engine) List() []policy.Rule {
	e.mu.Lock()
	defer e.mu.Unlock()
	return list(e.rules)
}

func notFound(id string) error {
	return fault.New(fault.NotFound, "there is no rule %q", id).WithNext("metacrypt policy list")
}

func clone(m map[string]policy.Rule) map[string]policy.Rule {
	out := make(map[string]policy.Rule, len(m)+1)
	for k, v := range m {
		out[k] = v
	}
	return out
}

func list(m map[string]policy.Rule) []policy.Rule {
	out := make([]policy.Rule, 0, len(m))
	for _, r := range m {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b policy.Rule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), -strings.Compare(a.Effect, b.Effect), strings.Compare(a.ID, b.ID))
	})
	return out
}
