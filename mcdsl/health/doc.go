// Package health keeps one list of checks for everything that asks how a service is: status, /v1/status, the
// banner of the pages, doctor, readiness, and the watchdog. It exists so that these never disagree.
//
// A Check has a stable code, may depend on other checks, and says what is wrong, since when, and what to do next.
// A finding hides behind the finding it depends on: with the disk full, nobody needs to read that the last
// snapshot failed.
//
//	set := health.New("mcns", version)
//	set.Add(health.Check{Code: "zones", Title: "zones are loaded", Duty: true, Run: func(ctx context.Context) health.Result {
//		if n := z.Count(); n == 0 {
//			return health.Failed("no zone is loaded").Do("mcns restore FILE")
//		}
//		return health.OK("3 zones")
//	}})
//
// Two questions are kept apart. Alive asks only the checks marked Duty, that is, what a restart could help; a
// sealed, peerless or full service is alive. Ready is what the process says about its own start and stop.
package health
