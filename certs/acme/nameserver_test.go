package acme

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// need returns the path of a program, or ends the test: skipped for people,
// failed in CI, where nothing may be skipped.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed: apt-get install %s", program, pkg)
		}
		t.Skipf("%s is not installed: apt-get install %s", program, pkg)
	}
	return path
}

// The zone that real name servers begin with. ns2 is where a test may put
// another server; the alias leads to the second zone.
const zoneFile = `$TTL 60
@ SOA ns1 hostmaster 1 3600 600 86400 60
  NS  ns1
ns1 A  127.0.0.1
mail A 127.0.0.1
_acme-challenge.www CNAME www.acme.example.net.
_acme-challenge.loop CNAME _acme-challenge.loop2
_acme-challenge.loop2 CNAME _acme-challenge.loop
_acme-challenge.odd CNAME a\032b.example.org.
`

const delegateFile = `$TTL 60
@ SOA ns1.example.org. hostmaster 1 3600 600 86400 60
  NS  ns1.example.org.
`

// tsigSecret is that of the key "sallyport." on real servers.
const tsigSecret = "c2FsbHlwb3J0IHRlc3RzIHNpZ24gd2l0aCB0aGlzISE="

// A nameserver is a real one, with the zones example.org and
// acme.example.net, which the key "sallyport" may update, and the key
// "stranger" may not.
type nameserver struct {
	addr string
	stop func()
}

// bind starts Debian's named on an address of loopback.
func bind(t *testing.T, addr, algorithm, zone string) *nameserver {
	program := need(t, "named", "bind9")
	host, port, _ := net.SplitHostPort(addr)
	conf := fmt.Sprintf(`
options {
	directory "DIR"; pid-file none; session-keyfile none; dnssec-validation no;
	listen-on port %s { %s; }; listen-on-v6 { none; };
	recursion no; notify no; max-cache-size 2m;
};
controls { };
key "sallyport" { algorithm %s; secret "%s"; };
key "stranger" { algorithm %s; secret "%[4]s"; };
`, port, host, algorithm, tsigSecret, algorithm)
	for _, name := range []string{"example.org", "acme.example.net"} {
		conf += fmt.Sprintf("zone %q { type primary; file %q; update-policy { grant sallyport zonesub TXT; }; };\n", name, name)
	}
	return started(t, addr, conf, zone, program, "-g", "-n", "1", "-c", "CONF")
}

// knot starts Debian's knotd.
func knot(t *testing.T, addr, algorithm, zone string) *nameserver {
	program := need(t, "knotd", "knot")
	conf := fmt.Sprintf(`
server:
  rundir: "DIR"
  listen: "%s"
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: "DIR/db"
  journal-db-max-size: 10M
  timer-db-max-size: 10M
key:
  - id: sallyport
    algorithm: %s
    secret: %s
  - id: stranger
    algorithm: %s
    secret: %s
acl:
  - id: update
    key: sallyport
    action: update
    update-type: TXT
template:
  - id: default
    storage: "DIR"
    file: "%%s"
    acl: update
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
zone:
  - domain: example.org
  - domain: acme.example.net
`, strings.Replace(addr, ":", "@", 1), algorithm, tsigSecret, algorithm, tsigSecret)
	return started(t, addr, conf, zone, program, "-c", "CONF")
}

func started(t *testing.T, addr, conf, zone string, argv ...string) *nameserver {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("conf", strings.ReplaceAll(conf, "DIR", dir))
	write("example.org", zone)
	write("acme.example.net", delegateFile)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	argv[len(argv)-1] = filepath.Join(dir, "conf")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	s := &nameserver{addr: addr, stop: func() {
		cmd.Process.Signal(syscall.SIGKILL)
		<-ended
	}}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("%s said:\n%s", filepath.Base(argv[0]), text)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := dns.Exchange(question("acme.example.net.", dns.TypeSOA, false), addr)
		if err == nil && r.Authoritative {
			return s
		}
		select {
		case <-ended:
			t.Fatalf("%s ended", argv[0])
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", argv[0], err)
		}
	}
}

// txt returns what a server answers.
func (s *nameserver) txt(t *testing.T, name string) (values []string) {
	t.Helper()
	r, err := dns.Exchange(question(dns.Fqdn(name), dns.TypeTXT, false), s.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, rr := range r.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			values = append(values, strings.Join(txt.Txt, ""))
		}
	}
	return values
}

// loopback returns an address at host whose port nobody has, and no connection
// gets by chance (Linux hands out those from 32768 on).
func loopback(t *testing.T, host string) string {
	t.Helper()
	// A process that is forked now would hold the sockets until it executes.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for range 1000 {
		addr := fmt.Sprintf("%s:%d", host, 10000+rand.IntN(10000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		c, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			c.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// fakeDNS answers on loopback, by UDP and TCP, what no good server would.
func fakeDNS(t *testing.T, answer dns.HandlerFunc) string {
	t.Helper()
	addr := loopback(t, "127.0.0.1")
	for _, network := range []string{"udp", "tcp"} {
		up := make(chan struct{})
		s := &dns.Server{Addr: addr, Net: network, Handler: answer, NotifyStartedFunc: func() { close(up) },
			MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept },
			TsigSecret:    map[string]string{"sallyport.": tsigSecret}}
		done := make(chan error, 1)
		go func() { done <- s.ListenAndServe() }()
		select {
		case <-up:
		case err := <-done:
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return addr
}
