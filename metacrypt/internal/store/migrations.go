package store

import "embed"

// Migrations are the schema's steps.
//
//go:embed migrations/*.sql
var Migrations embed.FS
