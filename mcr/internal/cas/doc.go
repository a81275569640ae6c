// Package cas is the registry's content on disk: blobs by digest, uploads by id. It exists so that one place
// knows what is durable when, and so that a digest becomes a path in one function only.
//
// A Store is one folder with blobs/<algorithm>/<two hex>/<hex>, uploads/<id> and quarantine/. An Upload is a
// file that grows while it is hashed; it becomes a blob by a rename, after its bytes are on disk and before
// anybody is told. So a crash may leave a file that no row names, never the reverse.
//
//	u, err := s.Create(id, digest.SHA256)
//	n, err := u.Append(body)
//	d, err := u.Finish(digest.SHA256) // hashed and synced
//	unlock := s.Lock(d)
//	err = s.Place(u, d)               // then the row, then unlock, then the answer
//
// Beside each upload lies a file with two alternating, checksummed slots of (offset, hash state), written
// without sync every 16 MiB and at the end of each chunk. After a crash of the process that is what the file
// is cut to, and nothing is read again. After a power cut only what was synced counts; that offset is the
// caller's to keep (Synced), in its database.
//
// A Store is safe for concurrent use, an Upload belongs to one goroutine.
package cas
