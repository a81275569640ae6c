// Package csrf refuses writes that did not start on our own page. There are no tokens: browsers say themselves
// where a request started (Sec-Fetch-Site, Origin), and one that says nothing is refused for unsafe methods.
//
// Apps of the same domain are same-site, so a SameSite cookie alone would not stop them; they are not same-origin,
// and that is what counts here. GET, HEAD and OPTIONS pass: they have no effects.
package csrf
