// Package spec reads service definitions: the operator's intent, one short TOML file a service.
//
// Parse reports every fault at once, with its line, and returns the canonical form: short and long spelling of the same
// service give the same bytes, so a hash of them says whether anything changed. The canonical form holds names only,
// never a secret.
package spec
