// Package service puts the parts together: configuration, database, seal, contract, pages, background work.
package service
