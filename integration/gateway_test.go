package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// A gateway is the real binary, running on a configuration of the test's own.
type gateway struct {
	*daemon
	t     *testing.T
	dir   string
	admin string            // address of /metrics, /healthz, /readyz
	addrs map[string]string // of listeners, by the name in `listen`
}

// prelude is before every configuration: logs that a machine reads, and
// certificates for localhost, mail.example.org and imap.corp.example, of which
// the first is the default.
const prelude = `log {
  level  = "debug"
  format = "json"
}
admin { address = %q }
policy "default" {
  limits { rate_per_ip = "1000/s" }
}
`

// serve starts a gateway on an HCL text. In it, {{listen "NAME"}} is a free
// address that addr finds again, and {{postfix "NAME"}}, {{dovecot "imap"}},
// {{dovecot "proxied"}}, {{strict "imap"}}, {{strict "proxied"}} are servers
// to point a backend at, which start when they are named. {{nowhere}} is an
// address where nothing listens.
func serve(t *testing.T, hcl string) *gateway {
	t.Helper()
	g := launch(t, hcl)
	g.ready()
	return g
}

// ready waits until the gateway is.
func (g *gateway) ready() {
	g.t.Helper()
	if !eventually(2*patience, func() bool { return !g.running() || g.get("/readyz") == 200 }) {
		_, why, _ := g.fetch("/readyz")
		g.t.Fatalf("the gateway is not ready after %s: %s", 2*patience, why)
	}
	if !g.running() {
		g.t.Fatalf("the gateway ended: %s", g.said())
	}
}

// launch is serve without waiting: the gateway may have no certificate yet.
// wrapper is put before its command line.
func launch(t *testing.T, hcl string, wrapper ...string) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp(lab.dir, "gateway-")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, dir: dir, admin: address(), addrs: map[string]string{}}
	g.configure(hcl)
	if g.daemon, err = start(append(wrapper, lab.binary, "run", "-c", g.path())...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.stop()
		for _, bug := range []string{"DATA RACE", "panic: ", `"outcome":"panic"`} {
			if strings.Contains(g.said(), bug) {
				t.Errorf("the gateway has a bug: %s", bug)
			}
		}
		if t.Failed() {
			t.Logf("%s/sallyport.hcl:\n%s\nthe gateway said:\n%s", g.dir, hcl, g.tail(60))
		}
	})
	return g
}

func (g *gateway) path() string { return filepath.Join(g.dir, "sallyport.hcl") }

// configure writes the configuration, at the start and before a reload.
func (g *gateway) configure(hcl string) {
	g.t.Helper()
	dove := func(d *dovecot, what string) string {
		return quote(map[string]string{"imap": d.imap, "proxied": d.proxied}[what])
	}
	text, err := template.New("hcl").Funcs(template.FuncMap{
		"listen": func(name string) string {
			if g.addrs[name] == "" {
				g.addrs[name] = address()
			}
			return quote(g.addrs[name])
		},
		"postfix": func(name string) string { return quote(thePostfix(g.t).addr(name)) },
		"dovecot": func(what string) string { return dove(theDovecot(g.t), what) },
		"strict":  func(what string) string { return dove(theStrictDovecot(g.t), what) },
		"ca":      func() string { return lab.pki.ca },
		"nowhere": func() string { return quote(address()) },
	}).Parse(hcl)
	if err != nil {
		g.t.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, prelude, g.admin)
	for _, name := range []string{"localhost", "mail", "corp"} {
		out.WriteString(lab.pki.hcl(name))
	}
	if err := text.Execute(&out, nil); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(g.path(), []byte(out.String()), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func address() string       { return fmt.Sprintf("127.0.0.1:%d", freePort()) }
func quote(s string) string { return strconv.Quote(s) }
func (g *gateway) addr(name string) string {
	addr, ok := g.addrs[name]
	if !ok {
		g.t.Fatalf("no listener %q", name)
	}
	return addr
}

// port is what clients with a URL or a flag want.
func (g *gateway) port(name string) string {
	_, port, _ := net.SplitHostPort(g.addr(name))
	return port
}

// signal sends one to the gateway.
func (g *gateway) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// get asks the admin listener and returns the status, 0 if there is none.
func (g *gateway) get(path string) int {
	status, _, _ := g.fetch(path)
	return status
}

func (g *gateway) fetch(path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+g.admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// A logLine is one of the gateway's, as JSON.
type logLine map[string]any

// field returns a value as text.
func (l logLine) field(key string) string {
	if l[key] == nil {
		return ""
	}
	return fmt.Sprint(l[key])
}

// log returns the lines so far.
func (g *gateway) log() []logLine {
	var lines []logLine
	for text := range strings.Lines(g.said()) {
		var line logLine
		if json.Unmarshal([]byte(text), &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}

// sessions returns the session lines of a client's source address, or of a
// listener.
func (g *gateway) sessions(where string) []logLine {
	var found []logLine
	for _, line := range g.log() {
		host, _, _ := net.SplitHostPort(line.field("client"))
		if line["msg"] == "session" && (where == host || where == line["listener"]) {
			found = append(found, line)
		}
	}
	return found
}

// session waits for a session of a source address, or of a listener, to be
// over and returns its line: the last one, if there are several.
func (g *gateway) session(where string) logLine {
	g.t.Helper()
	var found []logLine
	if !eventually(patience, func() bool { found = g.sessions(where); return found != nil }) {
		g.t.Fatalf("no session of %s was logged", where)
	}
	return found[len(found)-1]
}

// is demands values of fields: key, value, key, value.
func (l logLine) is(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := l.field(pairs[i]); got != pairs[i+1] {
			t.Errorf("the session is logged with %s=%q, want %q: %v", pairs[i], got, pairs[i+1], l)
		}
	}
}

// ended demands that a session ended by itself. Some clients close without a
// close_notify once they have had their answer, as Python's do.
func (l logLine) ended(t *testing.T) {
	t.Helper()
	if outcome := l.field("outcome"); outcome != "ok" && outcome != "client_gone" {
		t.Errorf("the session ended with %s: %v", outcome, l)
	}
}

// waitLog waits for a line, as text, that matches.
func (g *gateway) waitLog(pattern string) string {
	g.t.Helper()
	re := regexp.MustCompile(pattern)
	var found string
	if !eventually(patience, func() bool {
		for line := range strings.Lines(g.said()) {
			if re.MatchString(line) {
				found = line
				return true
			}
		}
		return false
	}) {
		g.t.Fatalf("the gateway logged no line that matches %s", pattern)
	}
	return found
}

// tail is the end of the gateway's log.
func (g *gateway) tail(n int) string {
	lines := strings.Split(g.said(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
