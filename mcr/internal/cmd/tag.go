package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
)

func tagCommand(e *cli.Env) *cobra.Command {
	return noun("tag", "List, set, delete and trace tags", tagList(e), tagSet(e), tagDelete(e), tagHistory(e))
}

func tagList(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "list REPO", Aliases: []string{"ls"}, Short: "List a repository's tags", Args: cobra.ExactArgs(1), Example: "  mcr tag list team/blog",
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				all := &mcrv1.TagListResponse{}
				err := pages(func(token string) (string, error) {
					res, err := mcrv1.NewTagServiceClient(conn).List(cmd.Context(), &mcrv1.TagListRequest{Repository: args[0], PageToken: token, PageSize: 500})
					if err != nil {
						return "", err
					}
					all.Tags = append(all.Tags, res.Tags...)
					return res.NextPageToken, nil
				})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"TAG", "DIGEST", "KIND", ">SIZE", "SET", "BY", "HELD BY"}, Empty: args[0] + " has no tags now."}
				for _, g := range all.Tags {
					t.Row(g.Name, middle(g.Digest), kind(g.MediaType), size(g.TotalBytes), ago(e, g.SetAt), g.SetBy, g.ImmutableBy)
				}
				return e.EmitTable(all, t)
			})
		}}
}

func tagSet(e *cli.Env) *cobra.Command {
	var expect string
	var force bool
	c := &cobra.Command{Use: "set REPO TAG DIGEST", Short: "Point a tag at a manifest of the same repository, without a push", Args: cobra.ExactArgs(3),
		Example: "  mcr tag set team/blog stable sha256:3f1c…"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			res, err := mcrv1.NewTagServiceClient(conn).Set(cmd.Context(), &mcrv1.TagSetRequest{Repository: args[0], Name: args[1], Digest: args[2], Expect: expect, Force: force})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				if !res.Changed {
					_, _ = fmt.Fprintf(w, "%s:%s names %s already; nothing to do.\n", args[0], args[1], middle(args[2]))
					return
				}
				_, _ = fmt.Fprintf(w, "%s:%s names %s now.\n", args[0], args[1], middle(args[2]))
			})
		})
	}
	c.Flags().StringVar(&expect, "expect", "", "only if it names this digest now; \"none\" = only if it does not exist")
	c.Flags().BoolVar(&force, "force", false, "although an immutable rule holds it; needs admin")
	return c
}

func tagDelete(e *cli.Env) *cobra.Command {
	var force bool
	c := &cobra.Command{Use: "delete REPO TAG", Aliases: []string{"rm"}, Short: "Delete a tag; the image stays until it is collected as untagged", Args: cobra.RangeArgs(1, 2),
		Example: "  mcr tag delete team/blog 1.0\n  mcr tag delete team/blog:1.0"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		repo, tag, err := splitTag(args)
		if err != nil {
			return err
		}
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			if err := e.Confirm(fmt.Sprintf("This deletes tag %s of %s; it can be restored from the trash", tag, repo)); err != nil {
				return err
			}
			res, err := mcrv1.NewTagServiceClient(conn).Delete(cmd.Context(), &mcrv1.TagDeleteRequest{Repository: repo, Name: tag, Force: force})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Deleted %s:%s, which named %s.      undo: mcr trash restore %s %s\n", repo, tag, middle(res.Digest), repo, res.Operation)
			})
		})
	}
	c.Flags().BoolVar(&force, "force", false, "although an immutable rule holds it; needs admin")
	return c
}

func tagHistory(e *cli.Env) *cobra.Command {
	return &cobra.Command{Use: "history REPO [TAG]", Short: "List every move of a repository's tags, the newest first", Args: cobra.RangeArgs(1, 2),
		Example: "  mcr tag history team/blog v1",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &mcrv1.TagHistoryRequest{Repository: args[0], PageSize: 500}
			if len(args) == 2 {
				req.Name = args[1]
			}
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				all := &mcrv1.TagHistoryResponse{}
				err := pages(func(token string) (string, error) {
					req.PageToken = token
					res, err := mcrv1.NewTagServiceClient(conn).History(cmd.Context(), req)
					if err != nil {
						return "", err
					}
					all.Events = append(all.Events, res.Events...)
					return res.NextPageToken, nil
				})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"WHEN", "TAG", "VERB", "FROM", "TO", "BY"}, Empty: "No tag was ever moved there."}
				for _, h := range all.Events {
					t.Row(ago(e, h.At), h.Name, h.Verb, middle(h.OldDigest), middle(h.NewDigest), h.By)
				}
				return e.EmitTable(all, t)
			})
		}}
}

func trashCommand(e *cli.Env) *cobra.Command {
	list := &cobra.Command{Use: "list REPO", Aliases: []string{"ls"}, Short: "List deletions that can be undone", Args: cobra.ExactArgs(1), Example: "  mcr trash list team/blog",
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
				all := &mcrv1.TagListTrashResponse{}
				err := pages(func(token string) (string, error) {
					res, err := mcrv1.NewTagServiceClient(conn).ListTrash(cmd.Context(), &mcrv1.TagListTrashRequest{Repository: args[0], PageToken: token})
					if err != nil {
						return "", err
					}
					all.Entries = append(all.Entries, res.Entries...)
					return res.NextPageToken, nil
				})
				if err != nil {
					return err
				}
				t := &cli.Table{Head: []string{"OPERATION", "WHEN", "BY", "TAGS", ">MANIFESTS", "GONE AFTER"}, Empty: "Nothing was deleted there lately."}
				for _, x := range all.Entries {
					t.Row(x.Operation, ago(e, x.At), x.By, strings.Join(x.Tags, " "), fmt.Sprint(len(x.Digests)), x.Expires.AsTime().UTC().Format("2006-01-02 15:04"))
				}
				return e.EmitTable(all, t)
			})
		}}
	var overwrite bool
	restore := &cobra.Command{Use: "restore REPO OPERATION", Short: "Undo one deletion", Args: cobra.ExactArgs(2), Example: "  mcr trash restore team/blog 5f0c…"}
	restore.RunE = func(cmd *cobra.Command, args []string) error {
		return dial(e, cmd.Context(), func(conn *grpc.ClientConn) error {
			res, err := mcrv1.NewTagServiceClient(conn).Restore(cmd.Context(), &mcrv1.TagRestoreRequest{Repository: args[0], Operation: args[1], Overwrite: overwrite})
			if err != nil {
				return err
			}
			return e.Emit(res, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Restored %d manifests and the tags %s.\n", len(res.Digests), strings.Join(res.Tags, " "))
				if len(res.Kept) > 0 {
					_, _ = fmt.Fprintf(w, "Left alone, since they name something else by now: %s (--overwrite moves them back)\n", strings.Join(res.Kept, " "))
				}
			})
		})
	}
	restore.Flags().BoolVar(&overwrite, "overwrite", false, "also move back tags that name something else by now")
	return noun("trash", "See and undo deletions", list, restore)
}
