package main

import (
	"testing"

	"github.com/sallyport/sallyport/upgraders/all"
)

// Every protocol is shown, on each kind of port that it has, and every listener
// is visited.
func TestDemoShowsEveryProtocol(t *testing.T) {
	type kind struct{ protocol, mode string }
	shown, visited := map[kind]bool{}, map[string]bool{}
	servers := demoServers(new(demoBackends))
	for _, s := range servers {
		for _, v := range s.visits {
			visited[v.listener] = true
		}
	}
	for _, s := range servers {
		for _, l := range s.listeners {
			shown[kind{l.protocol, l.mode}] = true
			if !visited[l.name] {
				t.Errorf("nobody visits listener %s", l.name)
			}
		}
	}
	for _, p := range all.Protocols() {
		if p.Pages {
			continue // the demo shows servers, and here is none
		}
		if p.Keyword != "" && !shown[kind{p.Name, "starttls"}] {
			t.Errorf("%s is not shown by %s: demo_servers.go has no listener for it", p.Name, p.Keyword)
		}
		if (p.Keyword == "" || len(p.Implicit) > 0) && !shown[kind{p.Name, "implicit"}] {
			t.Errorf("%s is not shown with implicit TLS: demo_servers.go has no listener for it", p.Name)
		}
	}
}
