package master

import (
	"metacircular.net/mcdsl/auth"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// Rules has one rule per method and page. Besides admin nobody gets in yet: grants are the agent's, and it has none.
func Rules() auth.Map {
	read := auth.Roles(auth.RoleAdmin)
	write := func(target func(any) string) auth.Rule {
		return auth.Roles(auth.RoleAdmin).Privileged().Audited(target)
	}
	service := func(req any) string {
		if r, ok := req.(interface{ GetService() string }); ok {
			return r.GetService()
		}
		return ""
	}
	id := func(req any) string {
		if r, ok := req.(interface{ GetId() string }); ok {
			return r.GetId()
		}
		return ""
	}
	name := func(req any) string {
		if r, ok := req.(interface{ GetName() string }); ok {
			return r.GetName()
		}
		return ""
	}
	definition := func(req any) string {
		if r, ok := req.(interface{ GetSource() *mcpv1.Source }); ok {
			return nameOf(r.GetSource())
		}
		return ""
	}
	return auth.Map{
		mcpv1.Services_Validate_FullMethodName:     read,
		mcpv1.Services_Plan_FullMethodName:         read,
		mcpv1.Services_Deploy_FullMethodName:       write(definition),
		mcpv1.Services_Rollback_FullMethodName:     write(service),
		mcpv1.Services_Start_FullMethodName:        write(service),
		mcpv1.Services_Stop_FullMethodName:         write(service),
		mcpv1.Services_Restart_FullMethodName:      write(service),
		mcpv1.Services_Undeploy_FullMethodName:     write(service),
		mcpv1.Services_GetService_FullMethodName:   read,
		mcpv1.Services_ListServices_FullMethodName: read,
		mcpv1.Services_History_FullMethodName:      read,
		mcpv1.Ops_GetOp_FullMethodName:             read,
		mcpv1.Ops_ListOps_FullMethodName:           read,
		mcpv1.Ops_WatchOp_FullMethodName:           read,
		mcpv1.Ops_CancelOp_FullMethodName:          write(id),
		mcpv1.Runtime_Logs_FullMethodName:          read,
		mcpv1.Runtime_Stats_FullMethodName:         read,
		mcpv1.Events_ListEvents_FullMethodName:     read,
		mcpv1.Insight_Status_FullMethodName:        read,
		mcpv1.Insight_Doctor_FullMethodName:        read,
		mcpv1.Nodes_ListNodes_FullMethodName:       read,
		mcpv1.Nodes_GetNode_FullMethodName:         read,
		mcpv1.Nodes_RegisterNode_FullMethodName:    auth.Local().Audited(name),
		"HTTP GET /":                               read,
		"HTTP GET /services/{service}":             read,
		"HTTP GET /nodes":                          read,
	}
}
