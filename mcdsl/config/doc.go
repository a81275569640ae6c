// Package config loads a service's settings and can say where each one came from.
//
// A service declares one struct with the shared sections of this package and its own:
//
//	type Config struct {
//		Server   config.Server   `toml:"server"`
//		Database config.Database `toml:"database"`
//		DNS      DNS             `toml:"dns"`
//	}
//
// Order: the `default` tags, then SetDefaults of *T if there is one, then the TOML file, then environment
// (`MCNS_SERVER_LISTEN_ADDR`, the name made by walking the struct), then flags; last Validate of T.
// An unknown key is an error with its line and the nearest key; all faults are reported at once.
//
// Tags: `toml` names the key; `default` is its value ("{service}" is replaced); `path:"true"` makes a
// relative value relative to the file's folder; `reload:"true"` says that SIGHUP may change it;
// `secret:"true"` masks it in print (secrets themselves are never settings, only *_file names are).
package config
