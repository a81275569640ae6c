// Package web draws the pages of every service alike and signs people in at MCIAS. A service supplies the content of
// its pages; layout, navigation, components, error pages, theme, security headers, static files, the sign-in and the
// session are here.
//
//	site, err := web.New(web.Config{Service: "mcns", Templates: templates, Sections: sections,
//		Identity: identity, Issuer: issuer, Routes: routes})
//	b.Server.Pages = site
//
//	func routes(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
//		zones := mcnsv1.NewZoneServiceClient(conn)
//		r.Get("/zones", s.Page(func(w http.ResponseWriter, r *http.Request) error {
//			res, err := zones.ListZones(r.Context(), &mcnsv1.ListZonesRequest{})
//			if err != nil {
//				return err
//			}
//			return s.Render(w, r, "zones.html", web.Page{Title: "Zones", State: "3 zones.", Data: res})
//		}))
//	}
//
// A page is a client of its service's own gRPC, over the connection in process, with the token of the session; so it
// gets the verdict that REST and gRPC get. Each page route has its rule in the service's map; [Site.Rules] returns
// the rows of the routes that this package brings, and mcdsl/cli adds them by itself.
//
// Pages work without JavaScript; htmx replaces fragments of the same templates. Templates are parsed in New and
// rendered into a buffer first, so that an error never shows half a page. Sites and sessions are safe for concurrent
// use. The package keeps no password and nothing on disk.
package web
