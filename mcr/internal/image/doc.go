// Package image reads what clients push as manifests and names what they refer to. It exists because a
// registry must understand a manifest exactly as its clients will: two parsers that read two images from
// the same bytes are an attack (CVE-2021-41190), so duplicate keys, keys in another case and bodies that are
// image and index at once are refused here.
//
// The nouns are those of the OCI image specification: a Manifest is either an image (config and layers) or an
// index (manifests); a Descriptor names content by media type, digest and size. The bytes are stored and
// served as pushed; nothing here ever converts them.
//
// It also holds the two grammars every path goes through: names of repositories and tags (distribution
// specification 1.1, "Pulling manifests"), and digests. Everything is pure and safe for concurrent use.
package image
