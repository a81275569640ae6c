package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// fields is a JSON object by its exact keys; encoding/json into a struct would take "MediaType" for "mediaType".
type fields map[string]json.RawMessage

func object(raw []byte) (fields, error) {
	var f fields
	if err := json.Unmarshal(raw, &f); err != nil || f == nil {
		return nil, errors.New("not a JSON object")
	}
	return f, nil
}

// get returns a member that is there and not null.
func (f fields) get(key string) (json.RawMessage, bool) {
	raw, ok := f[key]
	return raw, ok && !bytes.Equal(raw, []byte("null"))
}

func (f fields) str(key string) (s string, err error) {
	if raw, ok := f.get(key); ok && json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s is not a string", key)
	}
	return s, nil
}

func (f fields) num(key string) (n int64, err error) {
	raw, ok := f.get(key)
	if !ok || json.Unmarshal(raw, &n) != nil {
		return 0, fmt.Errorf("%s is not a number", key)
	}
	return n, nil
}

func (f fields) strings(key string) (m map[string]string, err error) {
	if raw, ok := f.get(key); ok && json.Unmarshal(raw, &m) != nil {
		return nil, fmt.Errorf("%s is not an object of strings", key)
	}
	return m, nil
}

func (f fields) descriptors(key string) ([]Descriptor, error) {
	raw, ok := f.get(key)
	if !ok {
		return nil, nil
	}
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil, fmt.Errorf("%s is not a list", key)
	}
	if len(all) > maxChildren {
		return nil, fmt.Errorf("%s has %d entries; at most %d", key, len(all), maxChildren)
	}
	out := make([]Descriptor, len(all))
	for i, raw := range all {
		d, err := descriptor(fmt.Sprintf("%s[%d]", key, i), raw)
		if err != nil {
			return nil, err
		}
		out[i] = d
	}
	return out, nil
}

// checkJSON refuses what two parsers may read differently: duplicate keys, trailing bytes, and nesting without end.
func checkJSON(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the JSON document")
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("JSON nested over %d levels", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return errors.New("not a JSON document")
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if open == '{' {
			key, err := dec.Token()
			if err != nil {
				return errors.New("not a JSON document")
			}
			k, _ := key.(string)
			if seen[k] {
				return fmt.Errorf("the key %.60q appears twice in one object", k)
			}
			seen[k] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return errors.New("not a JSON document")
	}
	return nil
}
