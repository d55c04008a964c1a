package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// inTurns is a gateway before two servers, by each way to share sessions.
func inTurns(t *testing.T, one, two *store) *gateway {
	t.Helper()
	hcl := ""
	for name, settings := range map[string]string{
		"turns":  "servers = [%q, %q]\n  balance = \"round_robin\"",
		"least":  "servers = [%q, %q]\n  balance = \"least_conn\"",
		"source": "servers = [%q, %q]\n  balance = \"source\"",
		"spare":  "servers = [%q]\n  server %q { backup = true }",
		"few":    "servers = [%q]\n  server %q { max_connections = 1 }\n  balance = \"least_conn\"",
	} {
		hcl += fmt.Sprintf(`
listener "pop3" %[1]q {
  address = [{{listen %[1]q}}]
  mode    = "implicit"
  backend = backend.%[1]s
}
backend %[1]q {
  %[2]s
  probe { interval = "200ms" }
}
`, name, fmt.Sprintf(settings, one.addr("pop3"), two.addr("pop3")))
	}
	return serve(t, hcl)
}

// visit opens a session and returns it, and which server greeted.
func visit(t *testing.T, gw *gateway, listener, from string) (*peer, string) {
	t.Helper()
	c := dialTLS(t, from, gw.addr(listener), lab.pki.client("localhost"))
	name := c.want(`^\+OK .*ready`)
	return c, strings.Fields(strings.TrimPrefix(strings.TrimPrefix(name, "+OK "), "[XCLIENT] "))[0]
}

// visits opens and closes n sessions of a client and returns who greeted.
func visits(t *testing.T, gw *gateway, listener, from string, n int) (names []string) {
	t.Helper()
	for range n {
		c, name := visit(t, gw, listener, from)
		c.pop(true, "QUIT")
		c.clean()
		names = append(names, name)
	}
	return names
}

// Two Dovecots take turns, or the one with fewer sessions is next, or a client
// keeps its server, or one only stands by, or has room for so many. When one is
// killed the other serves everybody, without a session lost on the way; the
// probes mark it down, and up when it is back; and its sessions return.
// Controls are in the test: each listener behaves otherwise than the others.
func TestBalance(t *testing.T) {
	t.Parallel()
	need(t, "dovecot")
	root(t)
	start := func(name string) *store {
		s, err := newStore(name, "127.0.0.1", "ssl = no\ndisable_plaintext_auth = no\n")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two := start("one"), start("two")
	gw := inTurns(t, one, two)
	up := func(s *store) float64 {
		return gw.metric("sallyport_backend_up", `backend="turns"`, fmt.Sprintf("server=%q", s.addr("pop3")))
	}
	waitUp := func(s *store, want float64) {
		t.Helper()
		if !eventually(patience, func() bool { return up(s) == want }) {
			t.Fatalf("sallyport_backend_up of %s is %v, want %v", s.addr("pop3"), up(s), want)
		}
	}
	waitUp(one, 1)
	waitUp(two, 1)
	count := func(names []string) (n int) {
		for _, name := range names {
			if name == "one" {
				n++
			}
		}
		return n
	}

	names := visits(t, gw, "turns", loopback(), 6)
	if count(names) != 3 || names[0] == names[1] {
		t.Errorf("round_robin: %v", names)
	}
	if names := visits(t, gw, "spare", loopback(), 4); count(names) != 4 {
		t.Errorf("backup: %v", names)
	}
	kept := map[string]bool{}
	for range 12 {
		names := visits(t, gw, "source", loopback(), 3)
		if n := count(names); n != 0 && n != 3 {
			t.Errorf("source: one client got %v", names)
		}
		kept[names[0]] = true
	}
	if len(kept) != 2 {
		t.Errorf("source: every client got %v", kept)
	}
	var open []string // sessions that stay
	for range 4 {
		_, name := visit(t, gw, "least", loopback())
		open = append(open, name)
	}
	if count(open) != 2 {
		t.Errorf("least_conn: %v", open)
	}
	open = nil
	for range 4 {
		_, name := visit(t, gw, "few", loopback())
		open = append(open, name)
	}
	if count(open) != 3 {
		t.Errorf("max_connections: %v", open)
	}

	// One goes. At no moment is there no service.
	one.stop()
	for began := time.Now(); time.Since(began) < time.Second; {
		for _, listener := range []string{"turns", "spare", "source"} {
			if names := visits(t, gw, listener, loopback(), 1); names[0] != "two" {
				t.Errorf("%s: served by %v", listener, names)
			}
		}
	}
	waitUp(one, 0)
	waitUp(two, 1)
	gw.waitLog(`"level":"WARN".*"backend server is down".*` + one.addr("pop3"))
	if lines := gw.log(); slices.ContainsFunc(lines, func(l logLine) bool { return l["outcome"] == "backend_down" }) {
		t.Error("a session found no server")
	}

	// And comes back.
	if err := one.start(); err != nil {
		t.Fatal(err)
	}
	waitUp(one, 1)
	gw.waitLog(`"level":"INFO".*"backend server is up".*` + one.addr("pop3"))
	if names := visits(t, gw, "turns", loopback(), 6); count(names) != 3 {
		t.Errorf("round_robin again: %v", names)
	}
	if names := visits(t, gw, "spare", loopback(), 2); count(names) != 2 {
		t.Errorf("backup again: %v", names)
	}

	// With both gone the client is told so.
	one.stop()
	two.stop()
	from := loopback()
	c := dialTLS(t, from, gw.addr("turns"), lab.pki.client("localhost"))
	c.want(`^-ERR \[SYS/TEMP\]`)
	c.clean()
	gw.session(from).is(t, "outcome", "backend_down")
}
