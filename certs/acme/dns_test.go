package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// settings are right for bind and knot.
func settings(s *nameserver) *RFC2136 {
	_, port, _ := net.SplitHostPort(s.addr)
	return &RFC2136{
		Server: s.addr, KeyName: "sallyport", KeyAlgorithm: "hmac-sha256", KeySecret: tsigSecret,
		TTL: time.Minute, Timeout: 20 * time.Second, Resolver: s.addr, port: port,
	}
}

func publish(t *testing.T, d DNS, name, value string) *Record {
	t.Helper()
	r, err := d.Publish(t.Context(), name, value)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// refused wants an error that says all of this.
func refused(t *testing.T, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
}

// Two values stand beside one another, in a zone that is found, and each is
// taken away alone; an alias is followed into another zone. BIND and Knot,
// with each kind of signature.
func TestUpdate(t *testing.T) {
	for _, test := range []struct {
		algorithm string
		start     func(t *testing.T, addr, algorithm, zone string) *nameserver
	}{
		{"hmac-sha256", bind}, {"hmac-sha384", knot}, {"hmac-sha512", bind}, {"hmac-sha512", knot},
	} {
		t.Run(test.algorithm, func(t *testing.T) {
			s := test.start(t, loopback(t, "127.0.0.1"), test.algorithm, zoneFile)
			d := settings(s)
			d.KeyAlgorithm = test.algorithm
			const name = "_acme-challenge.Mail.example.org"
			apex, wildcard := publish(t, d, name, "-apex"), publish(t, d, name, "wildcard")
			got := s.txt(t, name)
			slices.Sort(got)
			if !slices.Equal(got, []string{"-apex", "wildcard"}) {
				t.Fatalf("the server has %q", got)
			}
			if err := apex.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.txt(t, name); !slices.Equal(got, []string{"wildcard"}) {
				t.Errorf("one record was taken away, and what is left is %q", got)
			}
			if err := wildcard.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			alias := publish(t, d, "_acme-challenge.www.example.org", "elsewhere")
			if got := s.txt(t, "www.acme.example.net"); !slices.Equal(got, []string{"elsewhere"}) {
				t.Errorf("where the alias leads to is %q", got)
			}
			if err := alias.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := append(s.txt(t, name), s.txt(t, "www.acme.example.net")...); left != nil {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// W-13, and whatever is wrong with a server, a key or a zone: the error says
// what to do.
func TestUpdateErrors(t *testing.T) {
	servers := map[string]*nameserver{
		"bind": bind(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile),
		"knot": knot(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile),
	}
	for kind, s := range servers {
		for _, test := range []struct {
			what, name string
			change     func(d *RFC2136)
			says       string
		}{
			{"secret", "", func(d *RFC2136) { d.KeySecret = "b3RoZXIgdGhhbiB0aGF0IG9mIHRoZSBzZXJ2ZXIuLi4=" }, "key_secret is not that of the key sallyport"},
			{"key", "", func(d *RFC2136) { d.KeyName = "unheard-of" }, "does not know the key unheard-of with hmac-sha256"},
			{"algorithm", "", func(d *RFC2136) { d.KeyAlgorithm = "hmac-sha512" }, "key_algorithm"},
			{"right", "", func(d *RFC2136) { d.KeyName = "stranger" }, "the key stranger"},
			{"zone", "", func(d *RFC2136) { d.Zone = "acme.example.net" }, "_acme-challenge.example.org is not in zone acme.example.net: correct zone"},
			{"no zone", "_acme-challenge.example.com", func(d *RFC2136) {}, "example.com"},
			{"no primary", "_acme-challenge.example.com", func(d *RFC2136) { d.Zone = "com" }, "example.com"},
			{"circle", "_acme-challenge.loop.example.org", func(d *RFC2136) {}, "more than 8 aliases"},
			{"odd", "_acme-challenge.odd.example.org", func(d *RFC2136) {}, "is an alias of"},
		} {
			t.Run(kind+" "+test.what, func(t *testing.T) {
				d := settings(s)
				test.change(d)
				name := test.name
				if name == "" {
					name = "_acme-challenge.example.org"
				}
				r, err := d.Publish(t.Context(), name, "value")
				refused(t, err, test.says)
				if r != nil {
					t.Error("something is to be taken away that is not there")
				}
				if strings.Contains(err.Error(), d.KeySecret) {
					t.Errorf("the secret is in the error: %v", err)
				}
			})
		}
	}
}

// A server that is down, or says nothing, ends in an error in time.
func TestUpdateServerDown(t *testing.T) {
	d := settings(&nameserver{addr: loopback(t, "127.0.0.1")})
	_, err := d.Publish(t.Context(), "_acme-challenge.example.org", "value")
	refused(t, err, "DNS server "+d.Server, "connection refused")

	d = settings(&nameserver{addr: fakeDNS(t, func(dns.ResponseWriter, *dns.Msg) {})})
	d.Timeout = 100 * time.Millisecond
	begin := time.Now()
	_, err = d.Publish(t.Context(), "_acme-challenge.example.org", "value")
	refused(t, err, "DNS server "+d.Server)
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

// W-12: A server that answers without a signature, or with one that is not its own,
// is not believed: whoever can send packets would be, otherwise.
func TestUpdateUnsigned(t *testing.T) {
	queried := func(w dns.ResponseWriter, q *dns.Msg) bool {
		r := new(dns.Msg).SetReply(q)
		r.Authoritative = true
		if q.Opcode == dns.OpcodeQuery {
			w.WriteMsg(r)
		}
		return q.Opcode == dns.OpcodeQuery
	}
	d := settings(&nameserver{addr: fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if !queried(w, q) {
			w.WriteMsg(new(dns.Msg).SetReply(q))
		}
	})})
	d.Zone = "example.org"
	_, err := d.Publish(t.Context(), "_acme-challenge.example.org", "value")
	refused(t, err, "is not signed")

	d = settings(&nameserver{addr: fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if queried(w, q) {
			return
		}
		r := new(dns.Msg).SetReply(q)
		r.SetTsig("sallyport.", dns.HmacSHA256, 300, time.Now().Unix())
		signed, _, _ := dns.TsigGenerate(r, "b3RoZXIgdGhhbiB0aGF0IG9mIHRoZSBzZXJ2ZXIuLi4=", q.IsTsig().MAC, false)
		w.Write(signed)
	})})
	d.Zone = "example.org"
	_, err = d.Publish(t.Context(), "_acme-challenge.example.org", "value")
	refused(t, err, "the signature of the answer is wrong")

	d = settings(&nameserver{addr: fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if queried(w, q) {
			return
		}
		r := new(dns.Msg).SetReply(q)
		r.Rcode = dns.RcodeNotAuth
		r.SetTsig("sallyport.", dns.HmacSHA256, 300, time.Now().Add(time.Hour).Unix())
		tsig := r.IsTsig()
		tsig.Error, tsig.OtherLen, tsig.OtherData = dns.RcodeBadTime, 6, "000065000000"
		signed, _, _ := dns.TsigGenerate(r, tsigSecret, q.IsTsig().MAC, false)
		w.Write(signed)
	})})
	d.Zone = "example.org"
	_, err = d.Publish(t.Context(), "_acme-challenge.example.org", "value")
	refused(t, err, "differ by more than five minutes")
}

// What servers refuse an update with is told, each with what to do.
func TestUpdateRefusals(t *testing.T) {
	for rcode, says := range map[int]string{
		dns.RcodeNotImplemented: "takes no dynamic updates",
		dns.RcodeServerFailure:  "able to write the zone",
		dns.RcodeNotAuth:        "not the primary",
		dns.RcodeNotZone:        "is not in it",
		dns.RcodeYXRrset:        "see its log",
	} {
		t.Run(dns.RcodeToString[rcode], func(t *testing.T) {
			d := settings(&nameserver{addr: fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
				r := new(dns.Msg).SetReply(q)
				r.Authoritative = true
				if q.Opcode == dns.OpcodeUpdate {
					r.Rcode = rcode
					r.SetTsig("sallyport.", dns.HmacSHA256, 300, time.Now().Unix())
				}
				w.WriteMsg(r)
			})})
			d.Zone = "example.org"
			_, err := d.Publish(t.Context(), "_acme-challenge.example.org", "value")
			refused(t, err, "DNS server "+d.Server, "zone example.org", dns.RcodeToString[rcode], says)
		})
	}
}

// An answer that doesn't fit into a packet is asked for again by TCP, and so
// is one that never came by UDP.
func TestTCP(t *testing.T) {
	for _, silent := range []bool{false, true} {
		addr := fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
			r := new(dns.Msg).SetReply(q)
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				if silent {
					w.Write([]byte("garbage"))
					return
				}
				r.Truncated = true
			} else {
				r.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: "a.example.org.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"whole"}}}
			}
			w.WriteMsg(r)
		})
		r, err := exchange(t.Context(), addr, question("a.example.org.", dns.TypeTXT, false), nil)
		if err != nil || len(r.Answer) != 1 {
			t.Errorf("silent %t: %v, %v", silent, r, err)
		}
	}
}

// An answer to another question is not taken for one to ours.
func TestAnswerToAnother(t *testing.T) {
	addr := fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		q.Question[0].Name = "b.example.org."
		w.WriteMsg(new(dns.Msg).SetReply(q))
	})
	_, err := exchange(t.Context(), addr, question("a.example.org.", dns.TypeTXT, false), nil)
	refused(t, err, "not an answer to what was asked")
}

// The wait asks every name server of the zone: one that lags behind is waited
// for and then named, one that is dead does not count.
func TestPropagation(t *testing.T) {
	first := loopback(t, "127.0.0.1")
	_, port, _ := net.SplitHostPort(first)
	second := "127.0.0.2:" + port
	zone := zoneFile + "@ NS ns2\nns2 A 127.0.0.2\n@ NS ns3\nns3 A 127.0.0.3\n"
	s := bind(t, first, "hmac-sha256", zone)
	behind := knot(t, second, "hmac-sha256", zone)
	d := settings(s)
	const name = "_acme-challenge.example.org"

	d.Server = behind.addr
	if _, err := d.Publish(t.Context(), name, "another record"); err != nil {
		t.Fatal(err)
	}
	d.Server = first
	r, err := d.Publish(t.Context(), name, "value")
	if err != nil {
		t.Fatal(err)
	}
	r.timeout = 3 * time.Second
	err = r.Wait(t.Context())
	refused(t, err, "after 3s the name server "+second+" of example.org still answers without the TXT record of _acme-challenge.example.org")
	if strings.Contains(err.Error(), "127.0.0.3") || strings.Contains(err.Error(), first) {
		t.Errorf("a server is blamed that has it, or is dead: %v", err)
	}

	r.timeout = 2 * time.Minute
	waited := make(chan error, 1)
	go func() { waited <- r.Wait(t.Context()) }()
	select {
	case err := <-waited:
		t.Fatalf("it did not wait for the second server: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	d.Server = behind.addr
	if _, err := d.Publish(t.Context(), name, "value"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %s, for the dead server, perhaps", took)
	}

	// Who ends the try ends the wait.
	ctx, cancel := context.WithCancel(t.Context())
	gone, err := settings(s).Publish(t.Context(), name, "another")
	if err != nil {
		t.Fatal(err)
	}
	go func() { waited <- gone.Wait(ctx) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the try: %v", err)
	}
}

// The resolver is asked about what the primary is no authority for.
func TestResolver(t *testing.T) {
	s := bind(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile)
	var asked atomic.Int32
	resolver := fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if !q.RecursionDesired || q.IsTsig() != nil {
			r.Rcode = dns.RcodeFormatError
		} else if q.Question[0].Name == "_acme-challenge.other.example." {
			asked.Add(1)
			r.Answer = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 60}, Target: "Other.acme.example.net."}}
		} else if strings.Contains(q.Question[0].Name, "broken") {
			r.Rcode = dns.RcodeServerFailure
		}
		w.WriteMsg(r)
	})
	d := settings(s)
	d.Resolver = resolver
	publish(t, d, "_acme-challenge.other.example", "value")
	if got := s.txt(t, "other.acme.example.net"); !slices.Equal(got, []string{"value"}) || asked.Load() == 0 {
		t.Errorf("%q, and the resolver was asked %d times", got, asked.Load())
	}
	// Who is no authority for a name knows nothing of it, whatever he says.
	d.Server = fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetReply(q)) })
	v := view{primary: d.Server, resolver: resolver}
	if at, err := v.follow(t.Context(), "_acme-challenge.other.example"); at != "other.acme.example.net." {
		t.Errorf("%s, %v", at, err)
	}
	d.Server = s.addr
	_, err := d.Publish(t.Context(), "_acme-challenge.broken.example", "value")
	refused(t, err, "resolver "+resolver+" answers SERVFAIL for _acme-challenge.broken.example")
}

func TestRFC2136Check(t *testing.T) {
	for says, change := range map[string]func(*RFC2136){
		"":                      func(*RFC2136) {},
		"write HOST:PORT":       func(d *RFC2136) { d.Server = "192.0.2.53" },
		"key_name":              func(d *RFC2136) { d.KeyName = "" },
		"zone":                  func(d *RFC2136) { d.Zone = "example..org" },
		"hmac-sha256":           func(d *RFC2136) { d.KeyAlgorithm = "hmac-md5" },
		"key_secret is not":     func(d *RFC2136) { d.KeySecret = "not base64 at all" },
		"which can be guessed":  func(d *RFC2136) { d.KeySecret = "c2hvcnQ=" },
		"key_secret has 0 byte": func(d *RFC2136) { d.KeySecret = "" },
	} {
		d := settings(&nameserver{addr: "192.0.2.53:53"})
		change(d)
		err := d.Check()
		if says == "" && err == nil {
			continue
		}
		refused(t, err, says)
	}
}

// program writes a hook.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	// Not written by this process while another test forks, which would make
	// the file busy.
	if err := os.WriteFile(path+".sh", []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec /bin/sh "+path+".sh \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// W-14: A program publishes in a real server, is given what it needs and nothing
// else, and is not run by a shell.
func TestExec(t *testing.T) {
	update := need(t, "nsupdate", "bind9-dnsutils")
	s := knot(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile)
	host, port, _ := net.SplitHostPort(s.addr)
	told := filepath.Join(t.TempDir(), "told")
	t.Setenv("SALLYPORT_SECRET", "of the gateway")
	hook := program(t, fmt.Sprintf(`
{ env; pwd; printf '<%%s>' "$@"; echo; } >>%s
case $2 in present) what="add $3. 60 TXT $4" ;; cleanup) what="delete $3. TXT $4" ;; esac
%s -y hmac-sha256:sallyport:%s <<END
server %s %s
update $what
send
END
`, told, update, tsigSecret, host, port))
	d := &Exec{Command: []string{hook, "$(id); 'id'"}, Timeout: 20 * time.Second, Resolver: s.addr, port: port}
	if warning, err := d.Check(); warning != "" || err != nil {
		t.Errorf("%q, %v", warning, err)
	}
	r := publish(t, d, "_acme-challenge.www.example.org", "-value_of_it")
	if got := s.txt(t, "www.acme.example.net"); !slices.Equal(got, []string{"-value_of_it"}) {
		t.Errorf("the server has %q", got)
	}
	if err := r.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.txt(t, "www.acme.example.net"); got != nil {
		t.Errorf("left behind: %q", got)
	}
	text, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<$(id); 'id'><present><www.acme.example.net><-value_of_it>\n",
		"<$(id); 'id'><cleanup><www.acme.example.net><-value_of_it>\n",
		"\n/\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the program was not told %q:\n%s", want, text)
		}
	}
	for line := range strings.Lines(string(text)) {
		name, _, is := strings.Cut(line, "=")
		if is && !slices.Contains([]string{"PATH", "PWD", "OLDPWD", "SHLVL", "_"}, name) {
			t.Errorf("the program knows of %s", line)
		}
	}
}

// W-14: A program that fails is told of with the end of what it said, in one line; one
// that hangs is killed, with its children; neither reads our input.
func TestExecFails(t *testing.T) {
	run := func(script string, timeout time.Duration) (error, time.Duration) {
		d := &Exec{Command: []string{program(t, script)}, Timeout: timeout}
		begin := time.Now()
		err := d.run(t.Context(), "present", "_acme-challenge.example.org", "value")
		return err, time.Since(begin)
	}
	err, _ := run(`cat; echo "no such zone: $3"; printf 'tell\033[31m the\n admin\n' >&2; exit 3`, time.Minute)
	refused(t, err, "exit status 3", "it said: no such zone: value tell [31m the admin")

	err, _ = run(`exit 1`, time.Minute)
	refused(t, err, "exit status 1", "it said: nothing")

	err, _ = run(`i=0; while [ $i -lt 3000 ]; do echo "line $i of very many"; i=$((i+1)); done; exit 1`, time.Minute)
	refused(t, err, "it said: … ", "line 2999 of very many")
	if len(err.Error()) > 3<<10 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}

	pid := filepath.Join(t.TempDir(), "pid")
	err, took := run(`sleep 60 & echo $! >`+pid+`; echo waiting; wait`, 2*time.Second)
	refused(t, err, "present still ran after 2s and was killed; it had said: waiting")
	if took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	child, readErr := os.ReadFile(pid)
	if readErr != nil {
		t.Fatal(readErr)
	}
	stat := "/proc/" + strings.TrimSpace(string(child)) + "/stat"
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(stat)
		if err != nil || strings.Contains(string(text), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Error("its child still runs")
			break
		}
	}

	// A daemon that it leaves behind doesn't hold up what has succeeded.
	err, took = run(`sleep 30 & exit 0`, time.Minute)
	if err != nil || took > 25*time.Second {
		t.Errorf("%v after %s", err, took)
	}

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := (&Exec{Command: []string{program(t, "sleep 60")}, Timeout: time.Minute}).run(ctx, "present"); err != context.Canceled {
		t.Errorf("after the end of the try: %v", err)
	}
}

func TestExecCheck(t *testing.T) {
	dir := t.TempDir()
	good := program(t, "")
	loose := program(t, "")
	if err := os.Chmod(loose, 0o777); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		good: "", loose: "chmod go-w", "hook": "the whole path", dir: "is not a program", text: "chmod +x", dir + "/none": "put the program there",
	} {
		warning, err := (&Exec{Command: []string{path}}).Check()
		switch {
		case says == "" && err == nil && warning == "":
		case warning != "" && err == nil:
			refused(t, fmt.Errorf("%s", warning), says)
		default:
			refused(t, err, says)
		}
	}
}
