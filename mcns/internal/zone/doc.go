// Package zone knows what a zone is: names, records, which writes are refused, and the compiled form that
// queries are answered from.
//
// A [Zone] is a value made of records with owners; it is never changed once built. [Compile] checks it as
// a whole and builds the tree that package answer walks. A [View] is the set of all compiled zones; a
// query sees exactly one View. Names are lower-case, absolute, in the library's presentation form; two
// spellings of one name are one name here.
package zone
