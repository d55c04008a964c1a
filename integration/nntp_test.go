package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A news server is an INN: an innd that takes the gateway for a peer, and an
// nnrpd for readers, with one spool. The nnrpd has TLS of its own, and offers it
// in cleartext as well, so that there is something to take out. Everybody may
// read and post, and log in with the common password.
type news struct {
	*daemon
	readers *daemon
	dir     string
	feed    string // address of innd
	reader  string // address of nnrpd
}

const newsGroup = "test.one"

// The files of an INN. %[1]s is its directory, %[2]d the port of innd, %[3]s the
// password, %[4]s where its programs are.
var newsFiles = map[string]string{
	"etc/inn.conf": `mta: "/bin/false %%s"
organization: "example.org"
ovmethod: tradindexed
hismethod: hisv6
pathhost: news.example.org
fromhost: news.example.org
domain: example.org
pathnews: %[4]s
runasuser: news
runasgroup: news
enableoverview: true
wireformat: true
pathdb: %[1]s/db
pathetc: %[1]s/etc
pathfilter: %[1]s/filter
pathhttp: %[1]s/http
pathlog: %[1]s/log
patharticles: %[1]s/articles
pathincoming: %[1]s/incoming
pathoutgoing: %[1]s/outgoing
pathoverview: %[1]s/overview
pathspool: %[1]s
pathrun: %[1]s/run
pathtmp: %[1]s/tmp
port: %[2]d
bindaddress: 127.0.0.1
maxartsize: 0
localmaxartsize: 0
tlscertfile: %[1]s/etc/news.crt
tlskeyfile: %[1]s/etc/news.key
`,
	"etc/storage.conf":  "method tradspool {\n    newsgroups: *\n    class: 0\n}\n",
	"etc/newsfeeds":     "ME:*::\n",
	"etc/incoming.conf": "peer gateway {\n  hostname: " + gatewayAddr + "\n  streaming: true\n}\n",
	"etc/expire.ctl":    "/remember/:11\n*:A:1:10:never\n",
	"etc/control.ctl":   "all:*:*:drop\n",
	"etc/readers.conf": `auth "all" {
    hosts: "*"
    auth: "%[1]s/etc/check"
    default: "guest"
}
access "all" {
    users: "*"
    newsgroups: "*"
    access: RPA
}
`,
	// What nnrpd asks whether a password is right.
	"etc/check": `#!/bin/sh
while IFS= read -r line; do
	line=$(printf '%%s' "$line" | tr -d '\r')
	case $line in
	"ClientAuthname: "*) user=${line#*: } ;;
	"ClientPassword: "*) secret=${line#*: } ;;
	esac
done
[ "$secret" = '%[3]s' ] && printf 'User:%%s\r\n' "$user"
`,
	"db/active":       "control 0 1 n\ncontrol.cancel 0 1 n\njunk 0 1 n\n" + newsGroup + " 0000000000 0000000001 y\n",
	"db/active.times": "",
	"db/newsgroups":   "",
	"db/history":      "",
}

var openNews = sync.OnceValues(func() (*news, error) {
	home := newsHome()
	inner, err := innerPKI()
	if err != nil {
		return nil, err
	}
	uid, gid, err := ids("news")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(lab.dir, "news")
	feed, reader := freePort(), freePort()
	n := &news{dir: dir, feed: fmt.Sprintf("127.0.0.1:%d", feed), reader: fmt.Sprintf("127.0.0.1:%d", reader)}
	if err := mkdirs(dir, uid, gid, "", "etc", "db", "run", "log", "articles", "overview", "incoming", "incoming/tmp", "incoming/bad", "outgoing", "filter", "http", "tmp"); err != nil {
		return nil, err
	}
	put := func(name, text string, mode os.FileMode) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode), os.Chown(path, uid, gid))
	}
	for name, text := range newsFiles {
		if strings.Contains(text, "%") {
			text = fmt.Sprintf(text, dir, feed, password, home)
		}
		mode := os.FileMode(0o644)
		if name == "etc/check" {
			mode = 0o755
		}
		if err := put(name, text, mode); err != nil {
			return nil, err
		}
	}
	for _, ending := range []string{"crt", "key"} {
		pem, err := os.ReadFile(inner.file("store." + ending))
		if err != nil {
			return nil, err
		}
		if err := put("etc/news."+ending, string(pem), 0o600); err != nil {
			return nil, err
		}
	}
	inn := func(argv ...string) []string {
		return slices.Concat([]string{"env", "INNCONF=" + filepath.Join(dir, "etc", "inn.conf"), "LD_LIBRARY_PATH=" + home,
			"setpriv", "--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(gid), "--clear-groups", filepath.Join(home, "bin", argv[0])}, argv[1:])
	}
	for _, argv := range [][]string{inn("makedbz", "-i", "-o"), inn("overchan")} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", argv[len(argv)-1], err, out)
		}
	}
	if n.daemon, err = start(inn("innd", "-f", "-P", strconv.Itoa(feed))...); err != nil {
		return nil, err
	}
	if err := errors.Join(keep(n.daemon), reachable(n.daemon, n.feed)); err != nil {
		return nil, err
	}
	if n.readers, err = start(inn("nnrpd", "-D", "-f", "-4", "127.0.0.1", "-p", strconv.Itoa(reader))...); err != nil {
		return nil, err
	}
	return n, errors.Join(keep(n.readers), reachable(n.readers, n.reader))
})

// newsHome is where INN is: installed, or only unpacked, by
// scripts/test-setup.sh, since its package cannot be configured on a machine
// without a full host name. "" if it is nowhere.
func newsHome() string {
	for _, home := range []string{"/usr/lib/news", "/var/lib/sallyport-tests/inn/usr/lib/news"} {
		if _, err := os.Stat(home + "/bin/innd"); err == nil {
			return home
		}
	}
	return ""
}

// theNews is shared; it starts when first asked for.
func theNews(t *testing.T) *news {
	t.Helper()
	root(t)
	if newsHome() == "" {
		lacking(t, "innd is not there: apt-get install inn2, or run scripts/test-setup.sh")
	}
	n, err := openNews()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// article asks INN itself, past the gateway, for the body of an article, and
// returns its lines; nil: there is none.
func (n *news) article(t *testing.T, id string) []string {
	t.Helper()
	c := dial(t, "", n.reader)
	c.want("^20[01] ")
	c.send("BODY <%s>", id)
	if line := c.line(); !strings.HasPrefix(line, "222 ") {
		return nil
	}
	return c.block()
}

// block reads lines up to a dot, and takes their stuffing out (RFC 3977, 3.1.1).
func (p *peer) block() []string {
	p.t.Helper()
	lines := []string{}
	for {
		line := p.line()
		if line == "." {
			return lines
		}
		lines = append(lines, strings.TrimPrefix(line, "."))
	}
}

// nntp sends a command and demands a code.
func (p *peer) nntp(code int, format string, args ...any) string {
	p.t.Helper()
	p.send(format, args...)
	return p.want(fmt.Sprintf("^%d( |$)", code))
}

// newsBy is a gateway before a backend of NNTP: STARTTLS and implicit.
func newsBy(addr string) string {
	return fmt.Sprintf(`
listener "nntp" "nntp" {
  address  = [{{listen "nntp"}}]
  mode     = "starttls"
  hostname = "gw.example.org"
  backend  = backend.news
}
listener "nntp" "nntps" {
  address  = [{{listen "nntps"}}]
  mode     = "implicit"
  hostname = "gw.example.org"
  backend  = backend.news
}
backend "news" {
  servers = [%q]
}
`, addr)
}

// What an article says that could be taken for something else.
var newsBody = []string{".", "..", ".hidden", "STARTTLS", "...", "", "500 What?", "QUIT", " .", "the end"}

func newsHeaders(id string) []string {
	return []string{"From: a@example.org", "Newsgroups: " + newsGroup, "Subject: dots", "Message-ID: <" + id + ">", ""}
}

// newsLib posts an article by Python's nntplib and reads it back; argv: port,
// message-id, password, mode.
const newsLib = `
import warnings; warnings.simplefilter("ignore")
import io, nntplib, ssl, sys
port, id, password, mode = sys.argv[1:]
ctx = ssl.create_default_context()
if mode == "implicit":
    n = nntplib.NNTP_SSL("localhost", int(port), ssl_context=ctx, timeout=20)
else:
    n = nntplib.NNTP("localhost", int(port), timeout=20)
    caps = n.getcapabilities()
    assert "STARTTLS" in caps and caps["AUTHINFO"] == [] and "SASL" not in caps, caps
    n.starttls(ctx)
caps = n.getcapabilities()
assert "STARTTLS" not in caps and "USER" in caps["AUTHINFO"], caps
n.login("u1", password)
article = sys.stdin.buffer.read()
n.post(io.BytesIO(article))
n.group("` + newsGroup + `")
resp, info = n.article("<%s>" % id)
print("\n".join(line.decode() for line in info.lines))
n.quit()
`

// Clients post an article over STARTTLS and implicit TLS and read it back, dots
// and all. Control: the same clients against INN itself, whose certificate they
// do not know, post nothing.
func TestNewsClients(t *testing.T) {
	t.Parallel()
	n := theNews(t)
	gw := serve(t, newsBy(n.reader))
	_, direct, _ := strings.Cut(n.reader, ":")
	typed := func(id string) string {
		lines := slices.Concat([]string{"MODE READER", "POST"}, newsHeaders(id))
		for _, line := range newsBody {
			if strings.HasPrefix(line, ".") {
				line = "." + line
			}
			lines = append(lines, line)
		}
		lines = append(lines, ".", "ARTICLE <"+id+">", "QUIT", "")
		return strings.Join(lines, "\r\n")
	}
	python := func(mode string) func(*testing.T, string, string) []string {
		return func(_ *testing.T, port, id string) []string {
			return []string{"python3", "-c", newsLib, port, id, password, mode}
		}
	}
	plain := func(id string) string {
		return strings.Join(slices.Concat(newsHeaders(id), newsBody), "\n") + "\n"
	}
	for _, c := range []reader{
		{name: "python", stdin: plain, argv: python("starttls")},
		{name: "python-implicit", implicit: true, stdin: plain, argv: python("implicit")},
		{name: "openssl", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-starttls", "nntp", "-quiet", "-verify_quiet")
		}},
		{name: "openssl-implicit", implicit: true, stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-quiet", "-verify_quiet")
		}},
		{name: "gnutls-cli", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return []string{"gnutls-cli", "--x509cafile=" + lab.pki.ca, "-p", port, "--starttls-proto=nntp", "localhost"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasPrefix(c.name, "python") {
				if exec.Command("python3", "-W", "ignore", "-c", "import nntplib").Run() != nil {
					lacking(t, "python3 has no nntplib: Python 3.12 was the last that did")
				}
			}
			listener := "nntp"
			if c.implicit {
				listener = "nntps"
			}
			id := fresh("post") + "@example.org"
			r := client(t, c.stdin(id), c.argv(t, gw.port(listener), id)...).ok(t)
			if got := n.article(t, id); !slices.Equal(got, newsBody) {
				t.Errorf("INN has %q", got)
			}
			r.says(t, "Xref: news.example.org "+newsGroup, ".hidden", "the end")
			gw.session(listener).is(t, "protocol", "nntp", "security", "encrypted")

			id = fresh("post") + "@example.org"
			client(t, c.stdin(id), c.argv(t, direct, id)...)
			if got := n.article(t, id); got != nil {
				t.Errorf("control: posted past the gateway: %q", got)
			}
		})
	}
}

// N-01 to N-04: STARTTLS in each state, the capability list on both sides of
// TLS, what is refused before it, and a fresh session after. Control: INN itself
// lists STARTTLS, and selects the group that was asked for.
func TestNewsStates(t *testing.T) {
	t.Parallel()
	n := theNews(t)
	gw := serve(t, newsBy(n.reader))
	direct := dial(t, "", n.reader)
	direct.want("^200 news.example.org ")
	direct.nntp(101, "CAPABILITIES")
	own := direct.block()
	if !slices.Contains(own, "STARTTLS") || slices.Contains(own, "AUTHINFO") {
		t.Fatalf("control: INN lists %q", own)
	}
	direct.nntp(211, "GROUP %s", newsGroup)

	c := dial(t, loopback(), gw.addr("nntp"))
	c.want("^200 gw.example.org ")
	c.nntp(101, "CAPABILITIES")
	before := c.block()
	for _, word := range []string{"AUTHINFO", "STARTTLS", "READER", "POST"} {
		if !slices.Contains(before, word) {
			t.Errorf("before TLS %s is missing: %q", word, before)
		}
	}
	if slices.ContainsFunc(before, func(l string) bool { return strings.HasPrefix(l, "SASL") || strings.HasPrefix(l, "COMPRESS") }) {
		t.Errorf("before TLS: %q", before)
	}
	c.nntp(483, "AUTHINFO USER u1")
	c.nntp(483, "GROUP %s", newsGroup)
	c.nntp(483, "DATE")
	c.nntp(200, "MODE READER")
	c.nntp(501, "STARTTLS x")
	c.nntp(382, "STARTTLS")
	c.tls(lab.pki.client("localhost"))
	c.nntp(412, "STAT")
	c.nntp(101, "CAPABILITIES")
	want := slices.DeleteFunc(slices.Clone(own), func(l string) bool { return l == "STARTTLS" })
	if inside := c.block(); !slices.Equal(inside, want) {
		t.Errorf("inside TLS:\n%q, want\n%q", inside, want)
	}
	c.nntp(502, "STARTTLS")
	c.nntp(381, "AUTHINFO USER u1")
	c.nntp(481, "AUTHINFO PASS wrong")
	c.nntp(502, "STARTTLS")
	c.nntp(381, "AUTHINFO USER u1")
	c.nntp(281, "AUTHINFO PASS %s", password)
	c.nntp(502, "STARTTLS") // INN's own
	c.nntp(205, "QUIT")
	c.clean()
}

// N-05: an article of megabytes, full of what looks like its end, arrives byte
// for byte and comes back so, many times pipelined; the filter is on all the
// while. Control: a changed line is found.
func TestNewsBytes(t *testing.T) {
	t.Parallel()
	n := theNews(t)
	gw := serve(t, newsBy(n.reader))
	c := dial(t, loopback(), gw.addr("nntp"))
	c.want("^200 ")
	c.nntp(382, "STARTTLS")
	c.tls(lab.pki.client("localhost"))
	var body []string
	for i := range 40000 {
		body = append(body, newsBody[i%len(newsBody)], strings.Repeat("x", i%70))
	}
	id := fresh("bytes") + "@example.org"
	c.nntp(340, "POST")
	w := bufio.NewWriter(c.conn)
	for _, line := range slices.Concat(newsHeaders(id), body) {
		if strings.HasPrefix(line, ".") {
			line = "." + line
		}
		io.WriteString(w, line+"\r\n")
	}
	io.WriteString(w, ".\r\nSTARTTLS\r\n")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	c.want("^240 ")
	c.want("^502 ")
	const times = 5
	c.write([]byte(strings.Repeat("BODY <"+id+">\r\nDATE\r\n", times)))
	for range times {
		c.want("^222 ")
		got := c.block()
		if !slices.Equal(got, body) {
			t.Fatalf("%d lines came back of %d, or others", len(got), len(body))
		}
		c.want("^111 ")
		got[7] += "?"
		if slices.Equal(got, body) {
			t.Error("control: a changed line was not found")
		}
	}
	c.nntp(101, "CAPABILITIES")
	if got := c.block(); slices.Contains(got, "STARTTLS") {
		t.Errorf("after it all: %q", got)
	}
	c.nntp(205, "QUIT")
	c.clean()
}

// N-05, RFC 4644: a peer streams through the gateway to innd, hundreds of
// articles ahead of their responses, with what looks like commands in them.
// Control: INN has none of them before, and refuses each the second time.
func TestNewsStreaming(t *testing.T) {
	t.Parallel()
	n := theNews(t)
	gw := serve(t, newsBy(n.feed))
	c := dialTLS(t, loopback(), gw.addr("nntps"), lab.pki.client("localhost"))
	c.want("^20[01] ")
	c.nntp(203, "MODE STREAM")
	const articles = 300
	run := fresh("stream")
	stream := func() {
		w := bufio.NewWriter(c.conn)
		for i := range articles {
			id := fmt.Sprintf("%s.%d@example.org", run, i)
			lines := slices.Concat([]string{"TAKETHIS <" + id + ">", "Path: peer.example.org!not-for-mail", "Date: " + time.Now().UTC().Format(time.RFC1123Z)},
				newsHeaders(id), []string{"..", "STARTTLS", "TAKETHIS <x@example.org>", "...", "."})
			io.WriteString(w, strings.Join(lines, "\r\n")+"\r\n")
			if i%100 == 50 {
				io.WriteString(w, "STARTTLS\r\n")
			}
		}
		if err := w.Flush(); err != nil {
			t.Error(err)
		}
	}
	for _, code := range []string{"239", "439"} {
		done := make(chan struct{})
		go func() { defer close(done); stream() }()
		for i := range articles {
			c.want(fmt.Sprintf(`^%s <%s\.%d@`, code, run, i))
			if i%100 == 50 {
				c.want("^502 ")
			}
		}
		<-done
	}
	if got := n.article(t, run+".7@example.org"); !slices.Equal(got, []string{".", "STARTTLS", "TAKETHIS <x@example.org>", ".."}) {
		t.Errorf("INN has %q", got)
	}
	c.nntp(205, "QUIT")
	c.clean()
}

// The gateway asks INN for TLS in NNTP's words and verifies it. Control: with
// another CA no session is had, and none in cleartext instead.
func TestNewsBackendTLS(t *testing.T) {
	t.Parallel()
	n := theNews(t)
	for _, way := range []struct {
		name, ca string
		ok       bool
	}{{"verified", theInnerPKI(t).ca, true}, {"another CA", lab.pki.ca, false}} {
		t.Run(way.name, func(t *testing.T) {
			gw := farGateway(t, "nntp", "starttls", n.reader, fmt.Sprintf("ca_file = %q\n    server_name = %q", way.ca, innerName))
			for _, listener := range []string{"asks", "begins"} {
				c := dial(t, loopback(), gw.addr(listener))
				if listener == "asks" {
					c.want("^20[01] ")
					c.nntp(382, "STARTTLS")
				}
				c.tls(lab.pki.client("localhost"))
				switch {
				case !way.ok && listener == "asks":
					c.nntp(400, "DATE")
					c.clean()
					continue
				case !way.ok:
					c.want("^400 ")
					c.clean()
					continue
				case listener == "begins":
					c.want("^200 ")
				}
				// INN says 502 to STARTTLS inside its TLS, and lists it no more.
				c.nntp(101, "CAPABILITIES")
				if got := c.block(); slices.Contains(got, "STARTTLS") || !slices.Contains(got, "READER") {
					t.Errorf("%s: %q", listener, got)
				}
				c.nntp(111, "DATE")
				c.nntp(205, "QUIT")
				c.clean()
			}
		})
	}
}

// G-06, G-14: where cleartext is allowed, a session works without TLS, a reader's
// too, and is never upgraded once it is joined; with cleartext_auth = false it
// cannot log in. Control: the same login goes where passwords are allowed.
func TestNewsInCleartext(t *testing.T) {
	t.Parallel()
	n := theNews(t)
	allowed := strings.Replace(newsBy(n.reader), `mode     = "starttls"`, "mode      = \"starttls\"\n  cleartext = \"allow\"", 1)
	for _, passwords := range []bool{true, false} {
		hcl := allowed
		if !passwords {
			hcl = strings.Replace(hcl, `"allow"`, "\"allow\"\n  cleartext_auth = false", 1)
		}
		gw := serve(t, hcl)
		c := dial(t, loopback(), gw.addr("nntp"))
		c.want("^200 ")
		c.nntp(200, "MODE READER")
		c.nntp(211, "GROUP %s", newsGroup)
		c.nntp(580, "STARTTLS")
		c.nntp(101, "CAPABILITIES")
		if got := c.block(); slices.Contains(got, "STARTTLS") || slices.Contains(got, "AUTHINFO") == passwords {
			t.Errorf("after the join: %q", got)
		}
		if passwords {
			c.nntp(381, "AUTHINFO USER u1")
			c.nntp(281, "AUTHINFO PASS %s", password)
		} else {
			c.nntp(483, "AUTHINFO USER u1")
			c.nntp(483, "AUTHINFO PASS %s", password)
			c.nntp(483, "COMPRESS DEFLATE")
		}
		c.nntp(205, "QUIT")
		c.closed()
	}
}
