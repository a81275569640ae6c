// Package deploy turns generations into running containers and back, one journalled operation at a time.
//
// An operation's steps are written down before they are done. The switch of traffic is the point of no return: before it
// everything is undone, after it everything is finished, and which of the two holds is asked of MC-Proxy, never
// remembered. So a process that is killed anywhere leaves exactly the old or exactly the new generation.
//
// A Deployer owns every container with this platform's and node's labels. Operations run on their own when the caller
// goes away. Safe for concurrent use; one operation per service at a time.
package deploy
