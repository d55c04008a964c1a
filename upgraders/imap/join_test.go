package imap

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// The facts a backend is told, in Dovecot's words.
func TestFacts(t *testing.T) {
	for want, f := range map[string]upgraders.Facts{
		`"x-originating-ip" "192.0.2.7" "x-originating-port" "50000" "x-connected-ip" "192.0.2.1" "x-connected-port" "993" "x-proxy-ttl" "4"`: {
			Client: netip.MustParseAddrPort("[::ffff:192.0.2.7]:50000"), Local: netip.MustParseAddrPort("192.0.2.1:993"), TTL: 4},
		`"x-originating-ip" "2001:db8::7" "x-originating-port" "1" "x-proxy-ttl" "1"`: {
			Client: netip.MustParseAddrPort("[2001:db8::7%eth0]:1"), TTL: 1},
		`"x-proxy-ttl" "5"`: {TTL: 5},
	} {
		if got := facts(f); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// An operator is told, once, what to change at a backend that forbids logins in
// spite of TLS.
func TestLoginDisabledIsLogged(t *testing.T) {
	p := rig{implicit: true}.play(t)
	p.backend.say("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello")
	p.client.sees("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello")
	p.exchange("a CAPABILITY\r\n", "a CAPABILITY\r\n", "* CAPABILITY LOGINDISABLED\r\na OK\r\n", "* CAPABILITY LOGINDISABLED\r\na OK\r\n")
	if said := p.log.lines(); len(said) != 1 || !strings.Contains(said[0], "disable_plaintext_auth") {
		t.Errorf("logged %q", said)
	}
}

// RFC 5802: with one key and certificate on both legs, channel binding holds.
func TestPassBinding(t *testing.T) {
	p := rig{implicit: true, binding: true}.play(t)
	p.backend.say("* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=SCRAM-SHA-256-PLUS] hello")
	p.client.sees("* OK [CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-256-PLUS] hello")
	p.exchange("a CAPABILITY\r\n", "a CAPABILITY\r\n", "* CAPABILITY AUTH=X-PLUS AUTH=EXTERNAL\r\na OK\r\n", "* CAPABILITY AUTH=X-PLUS\r\na OK\r\n")
}

// M-06: PREAUTH is logged with what to do about it.
func TestPreauthIsLogged(t *testing.T) {
	p := rig{implicit: true}.play(t)
	p.backend.say("* PREAUTH hello")
	p.client.matches(`\* BYE .*`)
	p.client.closed()
	if said := p.log.lines(); len(said) != 1 || !strings.Contains(said[0], "end that trust") {
		t.Errorf("logged %q", said)
	}
}

// No words of a backend can break out of the line they are passed on in.
func TestRefusalText(t *testing.T) {
	for in, want := range map[string]string{
		"* BYE \x1b[31mred\x00\xff\r\n": "?[31mred??",
		"* BYE\r\n":                     "",
		"* BYE a\rb\r\n":                "a?b",
	} {
		line := []byte(in)
		var r *upgraders.Refusal
		if err := farewell(parseResponse(line), line); !errors.As(err, &r) || r.Reply != want {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
	long := []byte("* BYE " + strings.Repeat("x", 9000) + "\r\n")
	if got := refusalText(farewell(parseResponse(long), long)); len(got) > 600 {
		t.Errorf("%d bytes of the backend's are passed on", len(got))
	}
}

// backendSays runs f against a backend that answers each line with the next of
// these, after the greeting.
func backendSays(t *testing.T, f func(*wire.Conn) error, greeting string, answers ...string) (heard []string, err error) {
	t.Helper()
	ours, theirs := loopback(t)
	theirs.SetDeadline(time.Now().Add(patience))
	ours.SetDeadline(time.Now().Add(patience))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		io.WriteString(theirs, greeting)
		in := wire.NewConn(theirs)
		for _, answer := range answers {
			line, err := in.ReadLine(8192)
			if err != nil {
				return
			}
			heard = append(heard, string(line))
			io.WriteString(theirs, answer)
		}
	}()
	err = f(wire.NewConn(ours))
	ours.Close()
	<-done
	return heard, err
}

// What a probe learns, and from what it learns nothing.
func TestProbe(t *testing.T) {
	ok := "gateway OK done\r\n"
	for _, test := range []struct {
		name     string
		id       bool
		greeting string
		answers  []string
		caps     []string
		heard    []string
	}{
		{"plain", false, "* OK [CAPABILITY X] hi\r\n",
			[]string{"* CAPABILITY IMAP4rev1 AUTH=PLAIN STARTTLS LITERAL+\r\n" + ok, "* BYE\r\n" + ok},
			[]string{"IMAP4rev1", "AUTH=PLAIN", "STARTTLS", "LITERAL+"}, []string{"gateway CAPABILITY", "gateway LOGOUT"}},
		{"with facts", true, "* OK hi\r\n",
			[]string{"* ID (\"a\" {3}\r\nb\r\n)\r\n" + ok, "* CAPABILITY IMAP4rev1\r\n" + ok, "gateway BAD\r\n"},
			[]string{"IMAP4rev1"}, []string{`gateway ID ("x-proxy-ttl" "5")`, "gateway CAPABILITY", "gateway LOGOUT"}},
		{"braces in text", false, "* OK ready {5}\r\n", []string{"* OK {7}\r\n* CAPABILITY IMAP4rev1\r\ngateway OK {3}\r\n"}, []string{"IMAP4rev1"}, []string{"gateway CAPABILITY"}},
		{"hangs up after the answer", false, "* OK hi\r\n", []string{"* CAPABILITY IMAP4rev1\r\n" + ok}, []string{"IMAP4rev1"}, []string{"gateway CAPABILITY"}},
		{"no atoms", false, "* OK hi\r\n", []string{"* CAPABILITY IMAP4rev1 A]B \"C\" D\x01\r\n" + ok}, []string{"IMAP4rev1"}, []string{"gateway CAPABILITY"}},
		{"ID refused", true, "* OK hi\r\n", []string{"gateway BAD unknown\r\n"}, nil, []string{`gateway ID ("x-proxy-ttl" "5")`}},
		{"PREAUTH", false, "* PREAUTH hi\r\n", nil, nil, nil},
		{"BYE", false, "* BYE no\r\n", nil, nil, nil},
		{"nothing", false, "", nil, nil, nil},
		{"BYE later", false, "* OK hi\r\n", []string{"* BYE no\r\n"}, nil, []string{"gateway CAPABILITY"}},
		{"refused", false, "* OK hi\r\n", []string{"gateway NO\r\n"}, nil, []string{"gateway CAPABILITY"}},
		{"none", false, "* OK hi\r\n", []string{ok}, nil, []string{"gateway CAPABILITY"}},
		{"another's answer", false, "* OK hi\r\n", []string{"a OK\r\n"}, nil, []string{"gateway CAPABILITY"}},
		{"endless", false, "* OK hi\r\n", []string{strings.Repeat("* OK still alive\r\n", 10000)}, nil, []string{"gateway CAPABILITY"}},
		{"endless literal", false, "* OK hi\r\n", []string{"* ID {9223372036854775807}\r\n"}, nil, []string{"gateway CAPABILITY"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var caps upgraders.Capabilities
			heard, err := backendSays(t, func(backend *wire.Conn) (err error) {
				caps, err = probe(context.Background(), &upgraders.Link{
					Backend: backend, Forward: upgraders.Forward{ID: test.id}, Facts: upgraders.Facts{TTL: 5}, Log: t.Logf})
				return err
			}, test.greeting, test.answers...)
			if (err == nil) != (test.caps != nil) || !slices.Equal(caps, test.caps) || !slices.Equal(heard, test.heard) {
				t.Errorf("got %q, %v after %q; want %q after %q", caps, err, heard, test.caps, test.heard)
			}
		})
	}
}

// B-01, B-02: TLS that is refused or tampered with is none.
func TestRequest(t *testing.T) {
	for _, test := range []struct {
		name, greeting string
		answers        []string
		want           error
	}{
		{"granted", "* OK hi\r\n", []string{"* OK soon\r\ngateway OK go\r\n"}, nil},
		{"refused", "* OK hi\r\n", []string{"gateway NO not today\r\n"}, upgraders.ErrNotOffered},
		{"unknown", "* OK hi\r\n", []string{"gateway BAD what\r\n"}, upgraders.ErrNotOffered},
		{"bytes behind the go-ahead", "* OK hi\r\n", []string{"gateway OK go\r\n* OK injected\r\n"}, upgraders.ErrBackend},
		{"PREAUTH", "* PREAUTH hi\r\n", nil, upgraders.ErrBackend},
		{"BYE", "* BYE busy\r\n", nil, upgraders.ErrTryNext},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := backendSays(t, func(backend *wire.Conn) error {
				return request(context.Background(), backend, "")
			}, test.greeting, test.answers...)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// memserver is go-imap's server: written by others, and in cleartext.
func memserver(t *testing.T) string {
	t.Helper()
	mem := imapmemserver.New()
	user := imapmemserver.NewUser("u1", "secret")
	user.Create("INBOX", nil)
	mem.AddUser(user)
	srv := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return mem.NewSession(), nil, nil
		},
		Caps:         goimap.CapSet{goimap.CapIMAP4rev1: {}},
		TLSConfig:    &tls.Config{}, // it offers STARTTLS itself
		InsecureAuth: true,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// A probe of a server that nobody here wrote; and a client that nobody here
// wrote works with it through the filter, with literals and IDLE.
func TestRealPeers(t *testing.T) {
	address := memserver(t)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	caps, err := probe(context.Background(), &upgraders.Link{Backend: wire.NewConn(c), Log: t.Logf})
	if err != nil || !slices.Contains(caps, "IMAP4rev1") || !slices.Contains(caps, "STARTTLS") {
		t.Fatalf("probe: %q, %v", caps, err)
	}

	p := rig{implicit: true, caps: caps}.play(t)
	server, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { io.Copy(server, p.backend.Conn); server.(*net.TCPConn).CloseWrite() }()
	go func() { io.Copy(p.backend.Conn, server); p.backend.Conn.(*net.TCPConn).CloseWrite() }()

	var exists atomic.Uint32
	client := imapclient.New(p.client.Conn, &imapclient.Options{
		UnilateralDataHandler: &imapclient.UnilateralDataHandler{Mailbox: func(data *imapclient.UnilateralDataMailbox) {
			if data.NumMessages != nil {
				exists.Store(*data.NumMessages)
			}
		}},
	})
	defer client.Close()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	seen, err := client.Capability().Wait()
	must("CAPABILITY", err)
	if seen.Has("STARTTLS") {
		t.Error("STARTTLS is offered inside TLS")
	}
	if err := client.Login("u1", "wrong\"\xc3\xa4").Wait(); err == nil { // go-imap sends that as a literal
		t.Error("logged in with a wrong password")
	}
	must("LOGIN", client.Login("u1", "secret").Wait())
	_, err = client.Select("INBOX", nil).Wait()
	must("SELECT", err)
	message := "Subject: hi\r\n\r\n" + strings.Repeat("0123456789\x00\xff\r\n", 100000)
	app := client.Append("INBOX", int64(len(message)), nil)
	_, err = io.WriteString(app, message)
	must("APPEND", err)
	must("APPEND", app.Close())
	_, err = app.Wait()
	must("APPEND", err)
	must("NOOP", client.Noop().Wait())
	if exists.Load() != 1 {
		t.Errorf("%d messages", exists.Load())
	}
	must("LOGOUT", client.Logout().Wait())
	if !p.isOpaque() {
		t.Error("the filter did not end")
	}
}

// What stands for the greeting of a backend that was asked for TLS is one, and
// promises nothing.
func TestGreetingInTLS(t *testing.T) {
	greeting := string(Protocol().Greeting)
	p := rig{implicit: true}.play(t)
	p.backend.says(greeting)
	p.client.reads(greeting)
	if strings.Contains(greeting, "CAPABILITY") {
		t.Errorf("%q tells what nobody has said in TLS", greeting)
	}
}
