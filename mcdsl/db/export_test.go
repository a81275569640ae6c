package db

// Waiting returns how many writers wait.
func Waiting(d *DB) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queue)
}
