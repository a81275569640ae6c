package cmd

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
)

func repoCommand(e *cli.Env) *cobra.Command {
	return noun("repo", "List, show and delete repositories", repoList(e), repoShow(e), repoDelete(e))
}

func repoList(e *cli.Env) *cobra.Command {
	var contains string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the repositories you may pull", Args: cobra.NoArgs,
		Example: "  mcr repo list\n  mcr repo list --contains team --json"}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			all := &mcrv1.RepositoryListResponse{}
			err := pages(func(token string) (string, error) {
				res, err := mcrv1.NewRepositoryServiceClient(conn).List(cmd.Context(), &mcrv1.RepositoryListRequest{Contains: contains, PageToken: token, PageSize: 500})
				if err != nil {
					return "", err
				}
				all.Repositories = append(all.Repositories, res.Repositories...)
				return res.NextPageToken, nil
			})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"NAME", ">TAGS", ">MANIFESTS", ">SIZE", "LAST PUSH", "LAST PULL"}, Empty: "There is no repository you may pull."}
			for _, r := range all.Repositories {
				t.Row(r.Name, strconv.FormatInt(r.Tags, 10), strconv.FormatInt(r.Manifests, 10), size(r.Bytes), ago(e, r.LastPush), ago(e, r.LastPull))
			}
			return e.EmitTable(all, t)
		})
	}
	c.Flags().StringVar(&contains, "contains", "", "only names that contain this")
	return c
}

func repoShow(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "show REPO", Short: "Show a repository with its manifests", Args: cobra.ExactArgs(1), Example: "  mcr repo show team/blog",
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				c := mcrv1.NewRepositoryServiceClient(conn)
				res, err := c.Get(cmd.Context(), &mcrv1.RepositoryGetRequest{Repository: args[0]})
				if err != nil {
					return err
				}
				if e.JSON {
					return e.Emit(res, nil)
				}
				t := &cli.Table{Head: []string{"DIGEST", "KIND", "TAGS", ">SIZE", "PUSHED", "BY"}, Empty: "It holds no manifest now."}
				err = pages(func(token string) (string, error) {
					list, err := c.ListManifests(cmd.Context(), &mcrv1.RepositoryListManifestsRequest{Repository: args[0], PageToken: token, PageSize: 500})
					if err != nil {
						return "", err
					}
					for _, m := range list.Manifests {
						t.Row(middle(m.Digest), kind(m.MediaType), strings.Join(m.Tags, " "), size(m.TotalBytes), ago(e, m.PushedAt), m.PushedBy)
					}
					return list.NextPageToken, nil
				})
				if err != nil {
					return err
				}
				r := res.Repository
				t.Foot = fmt.Sprintf("%s: %d tags, %s, last pull %s", r.Name, r.Tags, size(r.Bytes), ago(e, r.LastPull))
				return e.EmitTable(res, t)
			})
		}}
}

func kind(mediaType string) string {
	switch {
	case strings.Contains(mediaType, "index"), strings.Contains(mediaType, "manifest.list"):
		return "index"
	case strings.HasSuffix(mediaType, "manifest.v1+json"), strings.HasSuffix(mediaType, "manifest.v2+json"):
		return "image"
	}
	return mediaType
}

func repoDelete(e *cli.Env) *cobra.Command {
	var force bool
	c := &cobra.Command{Use: "delete REPO", Aliases: []string{"rm"}, Short: "Put everything of a repository into the trash", Args: cobra.ExactArgs(1),
		Example: "  mcr repo delete team/old\n  mcr trash restore team/old OPERATION"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			client := mcrv1.NewRepositoryServiceClient(conn)
			r, err := client.Get(cmd.Context(), &mcrv1.RepositoryGetRequest{Repository: args[0]})
			if err != nil {
				return err
			}
			if err := e.Confirm(fmt.Sprintf("This deletes %d tags and %d manifests of %s; they can be restored from the trash", r.Repository.Tags, r.Repository.Manifests, args[0])); err != nil {
				return err
			}
			res, err := client.Delete(cmd.Context(), &mcrv1.RepositoryDeleteRequest{Repository: args[0], Force: force})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Deleted %d tags and %d manifests of %s.      undo: mcr trash restore %s %s\n", res.Tags, res.Manifests, args[0], args[0], res.Operation)
			})
		})
	}
	c.Flags().BoolVar(&force, "force", false, "also what is pinned or immutable; needs admin")
	return c
}

func manifestCommand(e *cli.Env) *cobra.Command {
	var raw bool
	show := &cobra.Command{Use: "show REPO:TAG|REPO@DIGEST", Short: "Show a manifest: layers, platforms, who pushed it, why it is kept", Args: cobra.ExactArgs(1),
		Example: "  mcr manifest show team/blog:1.3\n  mcr manifest show --raw team/blog:1.3"}
	show.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := parseRef(args[0])
		if err != nil {
			return err
		}
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			res, err := mcrv1.NewRepositoryServiceClient(conn).GetManifest(cmd.Context(), &mcrv1.RepositoryGetManifestRequest{Repository: r.repo, Reference: r.ref(), Raw: raw})
			if err != nil {
				return err
			}
			if raw {
				_, err := e.Out.Write(res.Raw)
				return err
			}
			return e.Emit(res, func(w io.Writer) { printManifest(w, e, res.Manifest) })
		})
	}
	show.Flags().BoolVar(&raw, "raw", false, "print the bytes as pushed")
	return noun("manifest", "Look into manifests", show)
}

func printManifest(w io.Writer, e *cli.Env, m *mcrv1.Manifest) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("digest    %s", m.Digest)
	p("type      %s", m.MediaType)
	p("size      %s", size(m.TotalBytes))
	p("tags      %s", strings.Join(m.Tags, " "))
	p("pushed    %s by %s", ago(e, m.PushedAt), m.PushedBy)
	p("pulled    %s", ago(e, m.LastPull))
	p("kept for  %s", strings.Join(m.WhyKept, ", "))
	if m.Subject != "" {
		p("subject   %s", m.Subject)
	}
	for _, c := range m.Manifests {
		p("platform  %-16s %s", c.Platform, c.Digest)
	}
	if m.Config != nil {
		p("config    %-16s %s", size(m.Config.Size), m.Config.Digest)
	}
	for _, l := range m.Layers {
		p("layer     %-16s %s", size(l.Size), l.Digest)
	}
}

func referrersCommand(e *cli.Env) *cobra.Command {
	var artifact string
	c := &cobra.Command{Use: "referrers REPO@DIGEST", Short: "List what refers to a manifest: signatures, bills of materials", Args: cobra.ExactArgs(1),
		Example: "  mcr referrers team/blog@sha256:3f1c…"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := parseRef(args[0])
		if err != nil {
			return err
		}
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			client := mcrv1.NewRepositoryServiceClient(conn)
			if r.digest == "" {
				res, err := mcrv1.NewTagServiceClient(conn).Resolve(cmd.Context(), &mcrv1.TagResolveRequest{Repository: r.repo, Name: r.tag})
				if err != nil {
					return err
				}
				r.digest = res.Tag.Digest
			}
			all := &mcrv1.RepositoryListReferrersResponse{}
			err := pages(func(token string) (string, error) {
				res, err := client.ListReferrers(cmd.Context(), &mcrv1.RepositoryListReferrersRequest{Repository: r.repo, Digest: r.digest, ArtifactType: artifact, PageToken: token})
				if err != nil {
					return "", err
				}
				all.Referrers = append(all.Referrers, res.Referrers...)
				return res.NextPageToken, nil
			})
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"KIND", "DIGEST", ">SIZE"}, Empty: "Nothing refers to it."}
			for _, d := range all.Referrers {
				t.Row(d.ArtifactType, d.Digest, size(d.Size))
			}
			return e.EmitTable(all, t)
		})
	}
	c.Flags().StringVar(&artifact, "type", "", "only this artifact type")
	return c
}
