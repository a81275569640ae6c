package ui

import (
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/web"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
)

//go:embed templates/*.html
var templates embed.FS

// Rules are the rules of the pages: whoever is signed in may open them; what they show is decided by the RPCs.
func Rules() auth.Map {
	m := auth.Map{}
	for _, route := range []string{"GET /", "GET /repositories", "GET /repositories/show", "GET /repositories/manifest", "GET /repositories/tag/delete", "GET /repositories/delete", "GET /policy", "GET /storage",
		"POST /repositories/tag/delete", "POST /repositories/delete", "POST /repositories/restore", "POST /storage/gc", "POST /storage/verify"} {
		m["HTTP "+route] = auth.Authenticated()
	}
	return m
}

// pages are the handlers with the clients they ask.
type pages struct {
	host    string // what stands before a repository's name in a pull
	site    *web.Site
	repos   mcrv1.RepositoryServiceClient
	tags    mcrv1.TagServiceClient
	policy  mcrv1.PolicyServiceClient
	storage mcrv1.StorageServiceClient
}

// Config returns what mcdsl/web needs. host is what people write before a repository's name.
func Config(host string) web.Config {
	sub, err := fs.Sub(templates, "templates")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return web.Config{Templates: sub,
		Sections: []web.Link{{Name: "Repositories", URL: "/repositories"}, {Name: "Policy", URL: "/policy"}, {Name: "Storage", URL: "/storage"}},
		Funcs: template.FuncMap{
			"link":  link,
			"mib":   func(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) },
			"short": short,
		},
		Routes: func(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
			p := &pages{host: host, site: s, repos: mcrv1.NewRepositoryServiceClient(conn), tags: mcrv1.NewTagServiceClient(conn),
				policy: mcrv1.NewPolicyServiceClient(conn), storage: mcrv1.NewStorageServiceClient(conn)}
			p.routes(r)
		}}
}

func (p *pages) routes(r chi.Router) {
	for path, fn := range map[string]func(http.ResponseWriter, *http.Request) error{
		"/": p.home, "/repositories": p.list, "/repositories/show": p.repository, "/repositories/manifest": p.manifest, "/repositories/tag/delete": p.confirmTag, "/repositories/delete": p.confirmRepository,
		"/policy": p.rules, "/storage": p.store,
	} {
		r.Get(path, p.site.Page(fn))
	}
	for path, fn := range map[string]func(http.ResponseWriter, *http.Request) error{
		"/repositories/tag/delete": p.deleteTag, "/repositories/delete": p.deleteRepository, "/repositories/restore": p.restore,
		"/storage/gc": p.collect, "/storage/verify": p.verify,
	} {
		r.Post(path, p.site.Page(fn))
	}
}

// link makes the address of a page: path, then name, value, name, value …
func link(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return path + "?" + q.Encode()
}

// short is a media type as people call it.
func short(mediaType string) string {
	switch {
	case strings.Contains(mediaType, "index") || strings.Contains(mediaType, "manifest.list"):
		return "index"
	case strings.HasSuffix(mediaType, "manifest.v1+json"), strings.HasSuffix(mediaType, "manifest.v2+json"):
		return "image"
	}
	return strings.TrimPrefix(mediaType, "application/")
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

type listView struct {
	Repositories []*mcrv1.Repository
	Contains     string
	Next         string
	Host         string
}

// home sends to the list of repositories, the first page of the registry.
func (p *pages) home(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, "/repositories", http.StatusFound)
	return nil
}

func (p *pages) list(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	res, err := p.repos.List(r.Context(), &mcrv1.RepositoryListRequest{PageSize: 100, PageToken: q.Get("page"), Contains: q.Get("contains")})
	if err != nil {
		return err
	}
	state := plural(int64(len(res.Repositories)), "repository", "repositories") + " you may pull."
	if res.NextPageToken != "" {
		state = "The first of the repositories you may pull."
	}
	if len(res.Repositories) == 0 {
		state = "There is no repository you may pull."
	}
	return p.site.Render(w, r, "list.html", web.Page{Title: "Repositories", State: state,
		Data: listView{Repositories: res.Repositories, Contains: q.Get("contains"), Next: res.NextPageToken, Host: p.host}})
}

type repositoryView struct {
	Repo     *mcrv1.Repository
	Tags     []*mcrv1.Tag
	Next     string
	Untagged []*mcrv1.Manifest
	History  []*mcrv1.TagEvent
	Trash    []*mcrv1.TrashEntry
	Host     string
}

func (p *pages) repository(w http.ResponseWriter, r *http.Request) error {
	ctx, name := r.Context(), r.URL.Query().Get("name")
	repo, err := p.repos.Get(ctx, &mcrv1.RepositoryGetRequest{Repository: name})
	if err != nil {
		return err
	}
	tags, err := p.tags.List(ctx, &mcrv1.TagListRequest{Repository: name, PageSize: 100, PageToken: r.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	untagged, err := p.repos.ListManifests(ctx, &mcrv1.RepositoryListManifestsRequest{Repository: name, PageSize: 50, UntaggedOnly: true})
	if err != nil {
		return err
	}
	history, err := p.tags.History(ctx, &mcrv1.TagHistoryRequest{Repository: name, PageSize: 20})
	if err != nil {
		return err
	}
	trash, err := p.tags.ListTrash(ctx, &mcrv1.TagListTrashRequest{Repository: name, PageSize: 20})
	if err != nil {
		return err
	}
	v := repositoryView{Repo: repo.Repository, Tags: tags.Tags, Next: tags.NextPageToken, Untagged: untagged.Manifests,
		History: history.Events, Trash: trash.Entries, Host: p.host}
	state := fmt.Sprintf("%s in %.1f MiB.", plural(v.Repo.Tags, "tag", "tags"), float64(v.Repo.Bytes)/(1<<20))
	return p.site.Render(w, r, "repository.html", web.Page{Title: name, State: state, Crumbs: []web.Link{{Name: "Repositories", URL: "/repositories"}, {Name: name}}, Data: v,
		Mark: r.URL.Query().Get("mark")})
}

type manifestView struct {
	M         *mcrv1.Manifest
	Referrers []*mcrv1.Descriptor
	Reference string
	Pull      string
	Raw       string
}

func (p *pages) manifest(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	name, ref := q.Get("name"), q.Get("reference")
	res, err := p.repos.GetManifest(r.Context(), &mcrv1.RepositoryGetManifestRequest{Repository: name, Reference: ref, Raw: true})
	if err != nil {
		return err
	}
	refs, err := p.repos.ListReferrers(r.Context(), &mcrv1.RepositoryListReferrersRequest{Repository: name, Digest: res.Manifest.Digest})
	if err != nil {
		return err
	}
	sep := ":"
	if strings.Contains(ref, ":") {
		sep = "@"
	}
	v := manifestView{M: res.Manifest, Referrers: refs.Referrers, Reference: ref, Raw: string(res.Raw)}
	if p.host != "" {
		v.Pull = "docker pull " + p.host + "/" + name + sep + ref
	}
	state := fmt.Sprintf("%s of %.1f MiB, kept: %s.", strings.ToUpper(short(v.M.MediaType)[:1])+short(v.M.MediaType)[1:],
		float64(v.M.TotalBytes)/(1<<20), strings.Join(v.M.WhyKept, ", "))
	return p.site.Render(w, r, "manifest.html", web.Page{Title: ref, State: state, Data: v,
		Crumbs: []web.Link{{Name: "Repositories", URL: "/repositories"}, {Name: name, URL: link("/repositories/show", "name", name)}, {Name: ref}}})
}

type confirmView struct {
	Name, Tag, Digest string
	Tags, Manifests   int64
}

func (p *pages) confirmTag(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	res, err := p.tags.Resolve(r.Context(), &mcrv1.TagResolveRequest{Repository: q.Get("name"), Name: q.Get("tag")})
	if err != nil {
		return err
	}
	return p.site.Render(w, r, "delete-tag.html", web.Page{Title: "Delete tag " + res.Tag.Name, Narrow: true,
		State:  "The name goes; the image stays until it is collected as untagged.",
		Crumbs: []web.Link{{Name: "Repositories", URL: "/repositories"}, {Name: res.Tag.Repository, URL: link("/repositories/show", "name", res.Tag.Repository)}, {Name: "Delete " + res.Tag.Name}},
		Data:   confirmView{Name: res.Tag.Repository, Tag: res.Tag.Name, Digest: res.Tag.Digest}})
}

func (p *pages) deleteTag(w http.ResponseWriter, r *http.Request) error {
	name, tag := r.PostFormValue("name"), r.PostFormValue("tag")
	if _, err := p.tags.Delete(r.Context(), &mcrv1.TagDeleteRequest{Repository: name, Name: tag, Expect: r.PostFormValue("digest")}); err != nil {
		return err
	}
	return p.site.Redirect(w, r, link("/repositories/show", "name", name), "Tag "+tag+" is deleted. It can be restored from the trash.")
}

func (p *pages) confirmRepository(w http.ResponseWriter, r *http.Request) error {
	res, err := p.repos.Get(r.Context(), &mcrv1.RepositoryGetRequest{Repository: r.URL.Query().Get("name")})
	if err != nil {
		return err
	}
	repo := res.Repository
	return p.site.Render(w, r, "delete-repository.html", web.Page{Title: "Delete " + repo.Name, Narrow: true,
		State:  "Everything of it goes to the trash and can be restored from there.",
		Crumbs: []web.Link{{Name: "Repositories", URL: "/repositories"}, {Name: repo.Name, URL: link("/repositories/show", "name", repo.Name)}, {Name: "Delete"}},
		Data:   confirmView{Name: repo.Name, Tags: repo.Tags, Manifests: repo.Manifests}})
}

func (p *pages) deleteRepository(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("name")
	if _, err := p.repos.Delete(r.Context(), &mcrv1.RepositoryDeleteRequest{Repository: name}); err != nil {
		return err
	}
	return p.site.Redirect(w, r, link("/repositories/show", "name", name), "Everything of "+name+" is in the trash.")
}

func (p *pages) restore(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("name")
	res, err := p.tags.Restore(r.Context(), &mcrv1.TagRestoreRequest{Repository: name, Operation: r.PostFormValue("operation")})
	if err != nil {
		return err
	}
	toast := fmt.Sprintf("Restored %s and %s.", plural(int64(len(res.Digests)), "manifest", "manifests"), plural(int64(len(res.Tags)), "tag", "tags"))
	if len(res.Kept) > 0 {
		toast += " Left alone, because they name something else by now: " + strings.Join(res.Kept, ", ") + "."
	}
	return p.site.Redirect(w, r, link("/repositories/show", "name", name), toast)
}

type policyView struct {
	Rules     []*mcrv1.Rule // nil = not for this person
	Immutable []*mcrv1.ImmutableRule
	Form      map[string]string
	Answer    *mcrv1.PolicyExplainResponse
}

func (p *pages) rules(w http.ResponseWriter, r *http.Request) error {
	ctx, q := r.Context(), r.URL.Query()
	v := policyView{Form: map[string]string{}}
	for _, k := range []string{"who", "kind", "roles", "action", "repository", "tag"} {
		v.Form[k] = q.Get(k)
	}
	state := "Rules are shown to administrators; here you can ask about yourself."
	list, err := p.policy.ListRules(ctx, &mcrv1.PolicyListRulesRequest{})
	switch {
	case err == nil:
		immutable, err := p.policy.ListImmutable(ctx, &mcrv1.PolicyListImmutableRequest{})
		if err != nil {
			return err
		}
		v.Rules, v.Immutable = list.Rules, immutable.Rules
		state = plural(int64(len(v.Rules)), "rule", "rules") + ". What none allows is denied, and a deny wins."
	case !fault.Is(err, fault.Denied):
		return err
	}
	page := web.Page{Title: "Policy", State: state}
	if q.Get("repository") != "" {
		req := &mcrv1.PolicyExplainRequest{Action: q.Get("action"), Repository: q.Get("repository"), Tag: q.Get("tag")}
		if q.Get("who") != "" {
			req.Subject = &mcrv1.Subject{Name: q.Get("who"), Kind: q.Get("kind"), Roles: strings.Fields(q.Get("roles"))}
		}
		v.Answer, err = p.policy.Explain(ctx, req)
		if err != nil {
			if page.Form = web.Refused(r, err); page.Form == nil {
				return err
			}
			page.Status = http.StatusUnprocessableEntity
		}
	}
	if page.Form == nil {
		page.Form = web.NewForm("who", v.Form["who"], "roles", v.Form["roles"], "repository", v.Form["repository"], "tag", v.Form["tag"])
	}
	page.Data = v
	return p.site.Render(w, r, "policy.html", page)
}

type storageView struct {
	U      *mcrv1.StorageUsageResponse
	Saved  int64
	GC     *mcrv1.GCRun
	Verify *mcrv1.VerifyRun
}

func (p *pages) store(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	u, err := p.storage.Usage(ctx, &mcrv1.StorageUsageRequest{})
	if err != nil {
		return err
	}
	v := storageView{U: u, Saved: max(0, u.LinkedBytes-u.BlobBytes)}
	gc, err := p.storage.GetGC(ctx, &mcrv1.StorageGetGCRequest{})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	v.GC = gc.GetRun()
	verify, err := p.storage.GetVerify(ctx, &mcrv1.StorageGetVerifyRequest{})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	v.Verify = verify.GetRun()
	state := fmt.Sprintf("%s in %.1f MiB; %.1f GiB of the disk are free.", plural(u.Blobs, "blob", "blobs"), float64(u.BlobBytes)/(1<<20), float64(u.DiskFree)/(1<<30))
	if u.Quarantined > 0 {
		state = plural(u.Quarantined, "damaged blob was", "damaged blobs were") + " put aside. Pushing their images again heals them."
	}
	return p.site.Render(w, r, "storage.html", web.Page{Title: "Storage", State: state, Data: v})
}

func (p *pages) collect(w http.ResponseWriter, r *http.Request) error {
	if _, err := p.storage.StartGC(r.Context(), &mcrv1.StorageStartGCRequest{}); err != nil {
		return err
	}
	return p.site.Redirect(w, r, "/storage", "A collection has begun.")
}

func (p *pages) verify(w http.ResponseWriter, r *http.Request) error {
	if _, err := p.storage.StartVerify(r.Context(), &mcrv1.StorageStartVerifyRequest{}); err != nil {
		return err
	}
	return p.site.Redirect(w, r, "/storage", "A verification has begun.")
}
