package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcr/internal/policy"
)

// ruleTable is one of the two tables of rules; they have the same columns.
type ruleTable string

const (
	accessRules    ruleTable = "policy_rules"
	immutableRules ruleTable = "immutable_rules"
)

type ruleRow struct {
	name, owner, body, by string
	changed               int64
}

func ruleRows(q db.Queryer, t ruleTable) (out []ruleRow, err error) {
	rows, err := q.Query(`SELECT name, owner, body, changed, changed_by FROM ` + string(t) + ` ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r ruleRow
		if err := rows.Scan(&r.name, &r.owner, &r.body, &r.changed, &r.by); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// putRule makes or replaces a rule of the database; one of the configuration is refused.
func (s *Store) putRule(ctx context.Context, t ruleTable, name, who string, body any) (created bool, at time.Time, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return false, at, fmt.Errorf("rule %s: %w", name, err)
	}
	now := s.now()
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		owner, err := ruleOwner(tx, t, name)
		if err != nil {
			return err
		}
		created = owner == ""
		if owner == policy.OwnerConfig {
			return errConfigOwned(name)
		}
		_, err = tx.Exec(`INSERT INTO `+string(t)+` (name, owner, body, changed, changed_by) VALUES (?, 'db', ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET body = excluded.body, changed = excluded.changed, changed_by = excluded.changed_by`,
			name, string(text), now, who)
		return err
	})
	return created, fromMicro(now), err
}

func (s *Store) deleteRule(ctx context.Context, t ruleTable, name string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		owner, err := ruleOwner(tx, t, name)
		if err != nil {
			return err
		}
		switch owner {
		case "":
			return fault.New(fault.NotFound, "there is no rule %q", name).WithReason(ReasonUnknownEntry).WithNext("mcr policy list")
		case policy.OwnerConfig:
			return errConfigOwned(name)
		}
		_, err = tx.Exec(`DELETE FROM `+string(t)+` WHERE name = ?`, name)
		return err
	})
}

func ruleOwner(q db.Queryer, t ruleTable, name string) (owner string, err error) {
	err = q.QueryRow(`SELECT owner FROM `+string(t)+` WHERE name = ?`, name).Scan(&owner)
	if errors.Is(err, db.ErrNoRows) {
		return "", nil
	}
	return owner, err
}

func errConfigOwned(name string) error {
	return fault.New(fault.Conflict, "rule %q belongs to the configuration file", name).WithReason(ReasonConfigOwned).
		WithNext("change it in mcr.toml, then: mcr config check")
}

// reconcile makes the configuration's rules of a table exactly these; a rule of the database with the same
// name becomes the configuration's.
func reconcile(tx *db.Tx, t ruleTable, names []string, bodies []any, now int64) error {
	if _, err := tx.Exec(`DELETE FROM ` + string(t) + ` WHERE owner = 'config'`); err != nil {
		return err
	}
	for i, name := range names {
		text, err := json.Marshal(bodies[i])
		if err != nil {
			return fmt.Errorf("rule %s: %w", name, err)
		}
		if _, err := tx.Exec(`INSERT INTO `+string(t)+` (name, owner, body, changed, changed_by) VALUES (?, 'config', ?, ?, 'config')
			ON CONFLICT (name) DO UPDATE SET owner = 'config', body = excluded.body, changed = excluded.changed, changed_by = 'config'`,
			name, string(text), now); err != nil {
			return err
		}
	}
	return nil
}

// ReconcileRules makes the rules of the configuration file those of the database, at each start and reload.
func (s *Store) ReconcileRules(ctx context.Context, access []policy.Rule, immutable []policy.Immutable) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		var names []string
		var bodies []any
		for _, r := range access {
			names, bodies = append(names, r.Name), append(bodies, r)
		}
		if err := reconcile(tx, accessRules, names, bodies, s.now()); err != nil {
			return fmt.Errorf("policy rules of the configuration: %w", err)
		}
		names, bodies = nil, nil
		for _, r := range immutable {
			names, bodies = append(names, r.Name), append(bodies, r)
		}
		if err := reconcile(tx, immutableRules, names, bodies, s.now()); err != nil {
			return fmt.Errorf("immutable rules of the configuration: %w", err)
		}
		return nil
	})
}

// Rules returns the access and immutable rules, by name.
func (s *Store) Rules(ctx context.Context) (access []policy.Rule, immutable []policy.Immutable, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		access, immutable = nil, nil
		rows, err := ruleRows(v, accessRules)
		if err != nil {
			return err
		}
		for _, row := range rows {
			var r policy.Rule
			if err := json.Unmarshal([]byte(row.body), &r); err != nil {
				return fmt.Errorf("rule %s: %w", row.name, err)
			}
			r.Name, r.Owner, r.Changed, r.ChangedBy = row.name, row.owner, fromMicro(row.changed), row.by
			access = append(access, r)
		}
		if rows, err = ruleRows(v, immutableRules); err != nil {
			return err
		}
		for _, row := range rows {
			var r policy.Immutable
			if err := json.Unmarshal([]byte(row.body), &r); err != nil {
				return fmt.Errorf("immutable rule %s: %w", row.name, err)
			}
			r.Name, r.Owner = row.name, row.owner
			immutable = append(immutable, r)
		}
		return nil
	})
	return access, immutable, err
}

// PutRule makes or replaces an access rule of the database.
func (s *Store) PutRule(ctx context.Context, r policy.Rule, who string) (created bool, at time.Time, err error) {
	return s.putRule(ctx, accessRules, r.Name, who, r)
}

// DeleteRule removes an access rule of the database.
func (s *Store) DeleteRule(ctx context.Context, name string) error {
	return s.deleteRule(ctx, accessRules, name)
}

// PutImmutable makes or replaces an immutable rule of the database.
func (s *Store) PutImmutable(ctx context.Context, r policy.Immutable, who string) (created bool, err error) {
	created, _, err = s.putRule(ctx, immutableRules, r.Name, who, r)
	return created, err
}

// DeleteImmutable removes an immutable rule of the database.
func (s *Store) DeleteImmutable(ctx context.Context, name string) error {
	return s.deleteRule(ctx, immutableRules, name)
}
