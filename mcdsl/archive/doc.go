// Package archive writes, verifies and restores a service's snapshot.
//
// A snapshot is a tar.zst: manifest.json first, then the databases (VACUUM INTO), then the service's
// folder without *.db*, backups/, sockets and what the service excludes; last a zstd skippable frame with
// the SHA-256 of all bytes before it. zstd and tar open it; one flipped byte, a cut or an append is found.
//
// A snapshot counts only once a restore of it has been proved: [Verify] restores it to a scratch folder,
// compares hashes, checks the databases and their row counts. [Restore] does the same before it touches
// anything, moves the old aside, moves the new in, and leaves a marker so that [Recover] at the next
// start finishes a swap that was killed.
//
// It holds secrets as the folder does: it leaves the machine only inside the platform's encrypted backup.
package archive
