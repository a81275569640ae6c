// Package auth answers two questions for every call: who is asking, and may they. It exists so that no service
// parses a token, keeps a revocation list or forgets a check on its own.
//
// The nouns:
//
//   - A Caller is who asks: a human, a system account, or a process on the local socket. Its zero value is nobody.
//   - A Rule says who may call one method, and under which conditions. A Map holds exactly one Rule per method;
//     Map.Check names every method without a rule and every rule without a method.
//   - A Verifier turns a bearer token into a Caller without a round trip. It lives on a State (keys, revocations,
//     time of the last heartbeat) that a Source keeps fresh: Watch over the network, a LocalSource inside MCIAS itself.
//   - A ServiceKey is this service's own identity; Tokens and a Minter turn it into short tokens for calls to others.
//
// A service's rule map reads like this:
//
//	var Rules = auth.Map{
//		"/mcns.v1.ZoneService/ListZones":  auth.Authenticated(),
//		"/mcns.v1.ZoneService/CreateZone": auth.Policy("zones:create").Audited(zoneName).Privileged(),
//		"HTTP GET /dns-query":             auth.Public(),
//	}
//
// Everything here is safe for concurrent use. The package never logs a token and never returns one in an error.
// It does not decide policy: a method ruled by Policy asks its service's own policy and records the answer with
// Decide.
package auth
