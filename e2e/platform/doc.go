// Package platform tests the whole: the seven built binaries, real processes, a real browser, nothing imported of what
// is tested but the command lines and their documented JSON.
package platform
