// Package revoke is the log of kills and the hub that tells every service about them.
//
// [Kill] writes rows in the killer's transaction: a kill and its row commit together. After COMMIT the killer wakes
// the [Hub], which reads the table from its last number, so order and crash safety come from the database. The hub
// feeds MCIAS's own verifiers first, then every [Sub]scriber of the Watch stream. A slow subscriber is cut off and
// resumes by number; the writer never blocks and nothing is dropped in silence.
//
// An acknowledgement means: the set up to that number is in force there. [Hub.Wait] says who has and who has not.
package revoke
