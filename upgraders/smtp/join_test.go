package smtp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// scripted is a server on loopback that says its greeting and then answers each
// line with the next reply. It returns the gateway's end, and the lines that
// were read once the gateway has closed.
func scripted(t *testing.T, greeting string, replies ...string) (*wire.Conn, func() []string) {
	t.Helper()
	here, there := tcp(t)
	heard := make(chan []string, 1)
	go func() {
		defer there.Close()
		var lines []string
		defer func() { heard <- lines }()
		there.Write([]byte(greeting))
		c := wire.NewConn(there)
		for {
			line, err := c.ReadLine(maxLine)
			if err != nil {
				return
			}
			lines = append(lines, string(line))
			if len(replies) == 0 {
				return
			}
			there.Write([]byte(replies[0]))
			replies = replies[1:]
		}
	}()
	return wire.NewConn(here), func() []string { here.Close(); return <-heard }
}

func probeLink(backend *wire.Conn, xclient bool) *upgraders.Link {
	return &upgraders.Link{
		Backend: backend,
		Facts: upgraders.Facts{
			Client: netip.MustParseAddrPort("[::ffff:192.0.2.7]:49152"),
			Local:  netip.MustParseAddrPort("[2001:db8::1%eth0]:25"),
			Name:   "gw.example.org",
		},
		Forward: upgraders.Forward{XCLIENT: xclient},
		Log:     func(string, ...any) {},
	}
}

// The probe learns the lines of the EHLO reply, in their order, as a session in
// TLS would get them.
func TestProbe(t *testing.T) {
	const ehlo = "250-backend.example\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250-xclient NAME ADDR PORT DESTADDR\r\n250 SIZE 1000\r\n"
	offers := upgraders.Capabilities{"PIPELINING", "AUTH PLAIN LOGIN", "xclient NAME ADDR PORT DESTADDR", "SIZE 1000"}
	for _, test := range []struct {
		name     string
		xclient  bool
		greeting string
		replies  []string
		heard    []string
		want     upgraders.Capabilities
		err      string
	}{
		{
			name: "plain", greeting: "220 backend.example ESMTP\r\n",
			replies: []string{ehlo, "221 bye\r\n"},
			heard:   []string{"EHLO gw.example.org", "QUIT"},
			want:    offers,
		}, {
			name: "client facts", xclient: true, greeting: "220 backend.example ESMTP\r\n",
			replies: []string{ehlo, "220 again\r\n", ehlo, "221 bye\r\n"},
			heard: []string{
				"EHLO gw.example.org",
				"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 PORT=49152 DESTADDR=IPV6:2001:db8::1",
				"EHLO gw.example.org", "QUIT",
			},
			want: offers,
		}, {
			name: "client facts not offered", xclient: true, greeting: "220 backend.example ESMTP\r\n",
			replies: []string{"250 backend.example\r\n"},
			heard:   []string{"EHLO gw.example.org"},
			err:     "XCLIENT is not offered",
		}, {
			name: "no extensions", greeting: "220 backend.example ESMTP\r\n",
			replies: []string{"250 backend.example\r\n", "221 bye\r\n"},
			heard:   []string{"EHLO gw.example.org", "QUIT"},
			want:    upgraders.Capabilities{},
		}, {
			name: "no EHLO", greeting: "220-backend.example\r\n220 hello\r\n",
			replies: []string{"502 what\r\n", "250 hello\r\n"},
			heard:   []string{"EHLO gw.example.org", "HELO gw.example.org", "QUIT"},
			want:    upgraders.Capabilities{},
		}, {
			name: "busy", greeting: "421 later\r\n",
			err: "refuses service: 421 later",
		}, {
			name: "not for us", greeting: "554 go away\r\n",
			err: "refuses service: 554 go away",
		}, {
			name: "endless line", greeting: "220-" + strings.Repeat("x", 3000),
			err: "a reply line of more than 2048 bytes",
		}, {
			name: "endless reply", greeting: strings.Repeat("220-x\r\n", 200),
			err: "a reply of more than 128 lines",
		}, {
			name: "another protocol", greeting: "+OK POP3\r\n",
			err: "not an SMTP reply",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			backend, heard := scripted(t, test.greeting, test.replies...)
			got, err := smtpVariant.probe(context.Background(), probeLink(backend, test.xclient))
			if said := heard(); !cmp.Equal(said, test.heard) {
				t.Errorf("the backend hears %q, want %q", said, test.heard)
			}
			if !cmp.Equal(got, test.want) {
				t.Errorf("learned %q, want %q", got, test.want)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

// XCLIENT carries what the backend lists, and never a name of the client's.
func TestXCLIENT(t *testing.T) {
	all := "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
	v6 := upgraders.Facts{
		Client: netip.MustParseAddrPort("[fe80::7%eth0]:49152"),
		Local:  netip.MustParseAddrPort("192.0.2.1:25"),
	}
	for _, test := range []struct {
		line  string
		facts upgraders.Facts
		want  string
	}{
		{all, v6, "NAME=[UNAVAILABLE] ADDR=IPV6:fe80::7 PORT=49152 DESTADDR=192.0.2.1 DESTPORT=25"},
		{"xclient  addr\tport", v6, "NAME=[UNAVAILABLE] ADDR=IPV6:fe80::7 PORT=49152"},
		{"XCLIENT", v6, "NAME=[UNAVAILABLE]"},
		// Behind unix sockets nobody has an address; still it is not the
		// gateway's.
		{all, upgraders.Facts{}, "NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]"},
	} {
		if got := xclient(test.line, test.facts); got != test.want {
			t.Errorf("xclient(%q) = %q, want %q", test.line, got, test.want)
		}
	}
}

// What a server does wrong makes the gateway ask the next one; nothing of it
// counts as the client's doing.
func TestJoinTriesNext(t *testing.T) {
	for name, greeting := range map[string]string{
		"busy":      "421 later\r\n",
		"garbage":   "SSH-2.0-x\r\n",
		"no reply":  "",
		"odd":       "120 wait\r\n",
		"half line": "220 hel",
	} {
		t.Run(name, func(t *testing.T) {
			here, there := tcp(t)
			there.Write([]byte(greeting))
			there.Close()
			client := newMemory(1)
			link := newLink(client, here)
			h := strictSMTP().Implicit(&upgraders.Session{Listener: listener})
			err := h.Join(context.Background(), link)
			if !errors.Is(err, upgraders.ErrTryNext) || upgraders.Reason(err) != "" {
				t.Errorf("Join = %v (reason %q), want one that tries the next server", err, upgraders.Reason(err))
			}
		})
	}
}

// After a server that was not joined, another one is, from the beginning.
func TestJoinAgain(t *testing.T) {
	h := strictSMTP().starttls(&upgraders.Session{Listener: listener})
	bad, _ := scripted(t, "554 no\r\n")
	client := newMemory(1)
	link := newLink(client, bad.Conn)
	if err := h.Join(context.Background(), link); err != nil {
		t.Fatal(err)
	}
	good := newMemory(2)
	good.in = []byte("220 hi\r\n")
	good.written = func([]byte) {
		good.push([]byte("250 Ok\r\n"))
		good.ended = true
	}
	client.in, client.ended = []byte("NOOP\r\n"), true
	var got []byte
	client.written = func(p []byte) { got = append(got, p...) }
	link.Backend = wire.NewConn(good)
	if err := h.Join(context.Background(), link); err != nil {
		t.Fatal(err)
	}
	h.Converse(context.Background(), link)
	if string(got) != "250 Ok\r\n" {
		t.Errorf("the client gets %q, want the second server's reply", got)
	}
}

// A backend that was asked for TLS has greeted already, in clear: on an implicit
// port the gateway greets in its place, and XCLIENT brings a greeting again.
func TestJoinWithoutGreeting(t *testing.T) {
	for _, test := range []struct {
		xclient       bool
		replies, want string
	}{
		{false, "", "220 gw.example.org ESMTP\r\n"},
		{true, "250-backend.example\r\n250 XCLIENT ADDR\r\n220 backend.example\r\n", "220 backend.example\r\n"},
	} {
		client, backend := newMemory(1), newMemory(2)
		var got []byte
		client.written = func(p []byte) { got = append(got, p...) }
		backend.in = []byte(test.replies)
		backend.written = func([]byte) {}
		link := newLink(client, backend)
		link.Forward.XCLIENT = test.xclient
		link.Backend.Putback(Protocol().Greeting)
		h := strictSMTP().Implicit(&upgraders.Session{Listener: listener})
		if err := h.Join(context.Background(), link); err != nil || string(got) != test.want {
			t.Errorf("Join = %v; the client gets %q, want %q", err, got, test.want)
		}
	}
}

// The client side: TLS is asked for where it is listed, and anything but a 220
// with nothing behind it is a refusal (B-01, B-02).
func TestRequest(t *testing.T) {
	const ehlo = "250-backend.example\r\n250-starttls\r\n250 SIZE\r\n"
	for _, test := range []struct {
		name     string
		greeting string
		replies  []string
		heard    []string
		err      error
	}{
		{"go-ahead", "220 hi\r\n", []string{ehlo, "220 go\r\n"}, []string{"EHLO [127.0.0.1]", "STARTTLS"}, nil},
		{"not listed", "220 hi\r\n", []string{"250-STARTTLS\r\n250 SIZE\r\n"}, []string{"EHLO [127.0.0.1]"}, upgraders.ErrNotOffered},
		{"no EHLO", "220 hi\r\n", []string{"502 what\r\n"}, []string{"EHLO [127.0.0.1]"}, upgraders.ErrNotOffered},
		{"listed in a refusal", "220 hi\r\n", []string{"550-no\r\n550 STARTTLS\r\n"}, []string{"EHLO [127.0.0.1]"}, upgraders.ErrNotOffered},
		{"refused", "220 hi\r\n", []string{ehlo, "454 no\r\n"}, []string{"EHLO [127.0.0.1]", "STARTTLS"}, upgraders.ErrNotOffered},
		{"another 2yz", "220 hi\r\n", []string{ehlo, "250 no\r\n"}, []string{"EHLO [127.0.0.1]", "STARTTLS"}, upgraders.ErrNotOffered},
		{"no service", "554 no\r\n", nil, nil, upgraders.ErrNotOffered},
		{"injection", "220 hi\r\n", []string{ehlo, "220 go\r\n250 injected\r\n"}, []string{"EHLO [127.0.0.1]", "STARTTLS"}, upgraders.ErrBackend},
	} {
		t.Run(test.name, func(t *testing.T) {
			backend, heard := scripted(t, test.greeting, test.replies...)
			err := smtpVariant.request(context.Background(), backend, "")
			if said := heard(); !cmp.Equal(said, test.heard) {
				t.Errorf("the backend hears %q, want %q", said, test.heard)
			}
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("Request = %v, want %v", err, test.err)
			}
		})
	}
}

// LMTP differs in its greeting verb: RFC 2033, 4.1.
func TestLMTPDialogue(t *testing.T) {
	client := newMemory(1)
	client.in = []byte("EHLO a\r\nHELO a\r\nLHLO\r\nSTARTTLS\r\nLHLO a\r\nSTARTTLS\r\n")
	var got strings.Builder
	client.written = func(p []byte) { got.Write(p) }
	s := &upgraders.Session{
		Conn: wire.NewConn(client), Listener: listener,
		CanTLS:       func() bool { return true },
		Capabilities: func(context.Context) upgraders.Capabilities { return upgraders.Capabilities{"PIPELINING"} },
	}
	u, err := LMTP().New(LMTP().Options())
	if err != nil {
		t.Fatal(err)
	}
	h, err := u.Upgrade(context.Background(), s)
	if err != nil || h.Verdict != upgraders.StartTLS {
		t.Fatalf("Upgrade = %v, %v; want StartTLS", h.Verdict, err)
	}
	const want = "220 gw.example.org LMTP\r\n" +
		"500 5.5.2 Syntax error, command unrecognized\r\n" +
		"500 5.5.2 Syntax error, command unrecognized\r\n" +
		"501 5.5.4 Syntax: LHLO hostname\r\n" +
		"503 5.5.1 Send LHLO first\r\n" +
		"250-gw.example.org\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
	if got.String() != want {
		t.Errorf("the client gets\n%s\nwant\n%s", got.String(), want)
	}
}

// An option that makes no sense names itself and says what would.
func TestOptions(t *testing.T) {
	p := Protocol()
	for wait, ok := range map[string]bool{"": true, "0s": true, "3s": true, "20s": true, "21s": false, "-1s": false, "3": false, "soon": false} {
		_, err := p.New(&options{GreetWait: wait})
		switch {
		case ok && err != nil:
			t.Errorf("greet_wait %q: %v", wait, err)
		case !ok && err == nil:
			t.Errorf("greet_wait %q is taken", wait)
		case !ok && !strings.Contains(err.Error(), fmt.Sprintf("greet_wait is %q", wait)):
			t.Errorf("greet_wait %q: %v", wait, err)
		}
	}
	if _, err := p.New(nil); err != nil {
		t.Errorf("without options: %v", err)
	}
}

// A filter that stays takes nothing out of an offer but what PassBinding and
// RFC 5802 say.
func TestOfferBinding(t *testing.T) {
	for _, test := range []struct {
		offer offer
		want  string
	}{
		{inTLS, "AUTH PLAIN"},
		{offer{tls: true, auth: true, binding: true}, "AUTH SCRAM-SHA-1-PLUS PLAIN"},
		{offer{}, ""},
	} {
		if got := new(extensions).read(test.offer, "AUTH SCRAM-SHA-1-PLUS EXTERNAL PLAIN"); got != test.want {
			t.Errorf("%+v shows %q, want %q", test.offer, got, test.want)
		}
	}
}
