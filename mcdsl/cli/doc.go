// Package cli is the command line all services share: verbs, flags, output, exit codes, the saved login, and the
// assembly of a service's server from its parts. It exists so that eight binaries feel like one.
//
//	func main() { os.Exit(cli.Main(context.Background(), mcns.Service(), os.Args[1:])) }
//
// A [Service] names its configuration type, its rules, how to build its parts and its own commands. [Main] adds the
// verbs every service has (server, status, health, doctor, config, snapshot, restore, version, completion), runs one,
// prints a failure as "what, on what / why / next:" and returns the exit code of mcdsl/fault's table.
//
// Commands get an [Env]: the shared flags, the streams, [Env.Dial] to reach a service as the logged-in user,
// [Env.Emit] to print a table or JSON, [Env.Secret] to read a secret without showing it, [Env.Confirm] to ask.
//
// The saved login (DIR/login.json with --root DIR, else in the user's config folder) holds the secret of a session at
// MCIAS, 0600. Tokens are minted from it for one audience each, under a file lock, since several commands may run at
// once. An Env belongs to one run of one command; it is not safe for concurrent use except for Dial and Token.
package cli
