package rpc

import (
	"metacircular.net/mcdsl/auth"
	mcrv1 "metacircular.net/mcr/api/mcr/v1"
)

// Rules are the access rules of the contract: every method asks policy. Deletions, rules, pins, collection and
// storage have the privileged budget.
func Rules() auth.Map {
	read := func(action string) auth.Rule { return auth.Policy(action) }
	write := func(action string, target func(any) string) auth.Rule {
		return auth.Policy(action).Privileged().Audited(target)
	}
	return auth.Map{
		mcrv1.RepositoryService_List_FullMethodName:          read("pull"),
		mcrv1.RepositoryService_Get_FullMethodName:           read("pull"),
		mcrv1.RepositoryService_Delete_FullMethodName:        write("delete", repoOf),
		mcrv1.RepositoryService_ListManifests_FullMethodName: read("pull"),
		mcrv1.RepositoryService_GetManifest_FullMethodName:   read("pull"),
		mcrv1.RepositoryService_ListReferrers_FullMethodName: read("pull"),

		mcrv1.TagService_List_FullMethodName:      read("pull"),
		mcrv1.TagService_Resolve_FullMethodName:   read("pull"),
		mcrv1.TagService_Set_FullMethodName:       auth.Policy("tag").Audited(tagOf),
		mcrv1.TagService_Delete_FullMethodName:    write("delete", tagOf),
		mcrv1.TagService_History_FullMethodName:   read("pull"),
		mcrv1.TagService_ListTrash_FullMethodName: read("pull"),
		mcrv1.TagService_Restore_FullMethodName:   write("delete", repoOf),

		mcrv1.PolicyService_ListRules_FullMethodName:       read("admin"),
		mcrv1.PolicyService_PutRule_FullMethodName:         write("admin", nil),
		mcrv1.PolicyService_DeleteRule_FullMethodName:      write("admin", nameOf),
		mcrv1.PolicyService_Explain_FullMethodName:         read("explain"),
		mcrv1.PolicyService_ListImmutable_FullMethodName:   read("admin"),
		mcrv1.PolicyService_PutImmutable_FullMethodName:    write("admin", nil),
		mcrv1.PolicyService_DeleteImmutable_FullMethodName: write("admin", nameOf),

		mcrv1.PinService_SyncPins_FullMethodName:      write("pin", ownerOf),
		mcrv1.PinService_ResolveAndPin_FullMethodName: write("pull", repoOf),
		mcrv1.PinService_List_FullMethodName:          read("pin"),
		mcrv1.PinService_Release_FullMethodName:       write("pin", ownerOf),

		mcrv1.StorageService_Usage_FullMethodName:        read("admin"),
		mcrv1.StorageService_StartGC_FullMethodName:      write("admin", nil),
		mcrv1.StorageService_GetGC_FullMethodName:        read("admin"),
		mcrv1.StorageService_StartVerify_FullMethodName:  write("admin", nil),
		mcrv1.StorageService_GetVerify_FullMethodName:    read("admin"),
		mcrv1.StorageService_ListUploads_FullMethodName:  read("admin"),
		mcrv1.StorageService_CancelUpload_FullMethodName: write("admin", nil),

		mcrv1.EventService_Watch_FullMethodName: read("pull"),
	}
}

func repoOf(req any) string {
	if r, ok := req.(interface{ GetRepository() string }); ok {
		return r.GetRepository()
	}
	return ""
}

func tagOf(req any) string {
	if r, ok := req.(interface{ GetName() string }); ok {
		return repoOf(req) + ":" + r.GetName()
	}
	return repoOf(req)
}

func nameOf(req any) string {
	if r, ok := req.(interface{ GetName() string }); ok {
		return r.GetName()
	}
	return ""
}

func ownerOf(req any) string {
	if r, ok := req.(interface{ GetOwner() string }); ok {
		return r.GetOwner()
	}
	return ""
}
