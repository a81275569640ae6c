// Package store is the SQL of Metacrypt: the schema and one function per query. It decides nothing and decrypts
// nothing; what it returns may have been edited by whoever can write the file, and the callers check it.
package store
