package catalog

import (
	"slices"
	"strconv"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/zone"
)

// do applies one operation to the draft.
func (d *draft) do(op Op) error {
	switch op.Kind {
	case Change, Delete:
		i, ok := d.byID[op.ID]
		if !ok {
			return fault.New(fault.NotFound, "there is no record %s in %s", strconv.FormatInt(op.ID, 10), zone.Plain(d.old.Name))
		}
		r := d.records[i]
		if err := foreign(r, op); err != nil {
			return err
		}
		if op.Kind == Delete {
			d.drop(func(x zone.Record) bool { return x.ID == op.ID })
			return nil
		}
		return d.change(i, op)
	case Remove:
		return d.remove(op)
	case Set:
		return d.set(op)
	}
	return d.add(op)
}

// foreign refuses to touch what belongs to somebody else, naming the owner and the way to take over.
func foreign(r zone.Record, op Op) error {
	if r.Owner == op.Owner || op.Take {
		return nil
	}
	return fault.New(fault.Denied, "%s %s belongs to %s", zone.Plain(r.Name), zone.TypeName(r.Type), r.Owner).
		WithReason("FOREIGN_OWNER").WithNext("repeat with --take if you may take it over")
}

func (d *draft) drop(match func(zone.Record) bool) bool {
	n := len(d.records)
	d.records = slices.DeleteFunc(d.records, match)
	d.index()
	return len(d.records) != n
}

// ttlFor returns the TTL a value of the set gets; an explicit one becomes that of the whole set.
func (d *draft) ttlFor(k zone.Key, asked uint32) uint32 {
	have, ok := d.ttl[k]
	switch {
	case asked == 0 && ok:
		return have
	case asked == 0:
		return d.old.DefaultTTL
	}
	if ok && have != asked {
		for i := range d.records {
			if d.records[i].Key() == k {
				d.records[i].TTL = asked
			}
		}
	}
	d.ttl[k] = asked
	return asked
}

func (d *draft) add(op Op) error {
	for _, t := range op.Texts {
		_, text, err := zone.ParseValue(op.Name, op.Type, op.TTL, t, d.old.Name)
		if err != nil {
			return err
		}
		ttl := d.ttlFor(zone.Key{Name: op.Name, Type: op.Type}, op.TTL)
		if slices.ContainsFunc(d.records, func(r zone.Record) bool {
			return r.Name == op.Name && r.Type == op.Type && r.Text == text
		}) {
			return fault.New(fault.Exists, "%s %s %s is there already", zone.Plain(op.Name), zone.TypeName(op.Type), text)
		}
		d.records = append(d.records, zone.Record{Name: op.Name, Type: op.Type, TTL: ttl, Text: text, Owner: op.Owner, Note: op.Note})
		d.ttl[zone.Key{Name: op.Name, Type: op.Type}] = ttl
	}
	return nil
}

func (d *draft) remove(op Op) error {
	var texts []string
	for _, t := range op.Texts {
		_, text, err := zone.ParseValue(op.Name, op.Type, op.TTL, t, d.old.Name)
		if err != nil {
			return err
		}
		texts = append(texts, text)
	}
	var other error
	gone := d.drop(func(r zone.Record) bool {
		if r.Name != op.Name || r.Type != op.Type || (len(texts) > 0 && !slices.Contains(texts, r.Text)) {
			return false
		}
		if err := foreign(r, op); err != nil {
			other = err
			return false
		}
		return true
	})
	if !gone {
		if other != nil {
			return other
		}
		return fault.New(fault.NotFound, "there is no such %s record at %s", zone.TypeName(op.Type), zone.Plain(op.Name))
	}
	return nil
}

// set makes the owner's values exactly these; equal values of others stay theirs.
func (d *draft) set(op Op) error {
	want := map[string]bool{}
	for _, t := range op.Texts {
		_, text, err := zone.ParseValue(op.Name, op.Type, op.TTL, t, d.old.Name)
		if err != nil {
			return err
		}
		want[text] = true
	}
	d.drop(func(r zone.Record) bool {
		return r.Name == op.Name && r.Type == op.Type && r.Owner == op.Owner && !want[r.Text]
	})
	k := zone.Key{Name: op.Name, Type: op.Type}
	if len(want) > 0 {
		d.ttlFor(k, op.TTL)
	}
	for _, r := range d.records {
		if r.Key() == k {
			delete(want, r.Text)
		}
	}
	var add []string
	for t := range want {
		add = append(add, t)
	}
	slices.Sort(add)
	op.Texts = add
	return d.add(op)
}

func (d *draft) change(i int, op Op) error {
	r := d.records[i]
	if !op.KeepText {
		_, text, err := zone.ParseValue(r.Name, r.Type, r.TTL, op.Texts[0], d.old.Name)
		if err != nil {
			return err
		}
		r.Text = text
	}
	if !op.KeepTTL {
		if op.TTL > zone.MaxTTL {
			return fault.Field1("ttl", "must be at most %d", uint32(zone.MaxTTL))
		}
		for j := range d.records {
			if d.records[j].Key() == r.Key() {
				d.records[j].TTL = op.TTL
			}
		}
		r.TTL = op.TTL
	}
	if !op.KeepNote {
		r.Note = op.Note
	}
	if op.Take {
		r.Owner = op.Owner
	}
	d.records[i] = r
	return nil
}
