package sieve

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// serve is a server that greets and answers each command by its verb, "OK" to
// those that it is told nothing of. It returns a link to it, and what it heard
// once the link is closed.
func serve(greeting string, answers map[string]string) (*upgraders.Link, func() []string) {
	gateway, server := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	gateway.SetDeadline(deadline)
	server.SetDeadline(deadline)
	heard := make(chan []string, 1)
	go func() {
		var lines []string
		defer func() { server.Close(); heard <- lines }()
		io.WriteString(server, strings.ReplaceAll(greeting, "\n", "\r\n"))
		for in := bufio.NewReader(server); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			lines = append(lines, strings.TrimSpace(line))
			answer, ok := answers[strings.Fields(line)[0]]
			if !ok {
				answer = "OK\n"
			}
			io.WriteString(server, strings.ReplaceAll(answer, "\n", "\r\n"))
		}
	}()
	link := &upgraders.Link{
		Backend: wire.NewConn(gateway),
		Facts:   upgraders.Facts{Client: netip.MustParseAddrPort("[::ffff:192.0.2.7]:49152"), TTL: 3},
		Log:     func(string, ...any) {},
	}
	return link, func() []string { gateway.Close(); return <-heard }
}

const greeting = "\"IMPLEMENTATION\" \"old\"\n\"SASL\" \"PLAIN\"\n\"SIEVE\" {8}\nfileinto\n\"STARTTLS\"\n\"XCLIENT\"\nOK \"ready\"\n"

// The probe learns the lines of the list that is true for a session in TLS:
// that of the greeting, or of the answer to CAPABILITY once the backend knows
// the client.
func TestProbe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		xclient  bool
		greeting string
		answers  map[string]string
		heard    []string
		want     upgraders.Capabilities
		err      error
	}{
		{name: "greeting", greeting: greeting, heard: []string{"LOGOUT"},
			want: upgraders.Capabilities{"IMPLEMENTATION old", "SASL PLAIN", "SIEVE fileinto", "STARTTLS", "XCLIENT"}},
		{name: "client facts", xclient: true, greeting: greeting,
			answers: map[string]string{"CAPABILITY": "\"SASL\" \"\"\n\"SIEVE\" {3}\na\n\nOK\n"},
			heard:   []string{"XCLIENT ADDR=192.0.2.7 PORT=49152 TTL=3", "CAPABILITY", "LOGOUT"},
			want:    upgraders.Capabilities{"SASL "}},
		{name: "client facts refused", xclient: true, greeting: greeting, answers: map[string]string{"XCLIENT": "NO \"no\"\n"},
			heard: []string{"XCLIENT ADDR=192.0.2.7 PORT=49152 TTL=3"}, err: upgraders.ErrTryNext},
		{name: "client facts not offered", xclient: true, greeting: "OK\n", err: upgraders.ErrTryNext},
		{name: "turned away", greeting: "BYE \"busy\"\n", err: upgraders.ErrTryNext},
		{name: "referred", greeting: "BYE (REFERRAL \"sieve://a\")\n", err: upgraders.ErrBackend},
		{name: "not ManageSieve", greeting: "* OK ready\n", err: upgraders.ErrBackend},
		{name: "ahead of us", greeting: "OK\nOK \"spoken too soon\"\n", err: upgraders.ErrBackend}, // G-07
		{name: "no end", greeting: strings.Repeat("\"A\"\n", maxList+1), err: upgraders.ErrBackend},
		{name: "enormous", greeting: "\"SIEVE\" {65537}\n", err: upgraders.ErrBackend},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, heard := serve(c.greeting, c.answers)
			link.Forward.XCLIENT = c.xclient
			got, err := probe(context.Background(), link)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.heard, heard()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// B-01, B-02: a backend that refuses TLS, or says more behind its go-ahead, is
// never spoken with in the clear instead.
func TestRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, greeting, answer string
		want                   error
	}{
		{"go-ahead", greeting, "OK \"go\"\n", nil},
		{"refused", greeting, "NO \"no\"\n", upgraders.ErrNotOffered},
		{"turned away", "BYE (TRYLATER)\n", "", upgraders.ErrNotOffered},
		{"referred", "BYE (REFERRAL \"sieve://a\")\n", "", upgraders.ErrNotOffered},
		{"injected", greeting, "OK\n\"SASL\" \"PLAIN\"\nOK\n", upgraders.ErrBackend},
		{"not ManageSieve", "+OK ready\n", "", upgraders.ErrBackend},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, heard := serve(c.greeting, map[string]string{"STARTTLS": c.answer})
			if err := request(context.Background(), link.Backend, ""); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			heard()
		})
	}
	if Protocol().Greeting != nil {
		t.Error("the backend greets again after STARTTLS (RFC 5804, 2.2): nothing may stand for it")
	}
}

// Each fault of a server is found, and nothing else; each finding names a
// setting, by what the server was told.
func TestAudit(t *testing.T) {
	t.Parallel()
	told := upgraders.Told{Proxied: true, TLS: true}
	for name, c := range map[string]struct {
		capabilities string
		told         upgraders.Told
		passBinding  bool
		want         []string
	}{
		"well kept":           {"\"sasl\" \"Plain GSSAPI\"\n", told, false, nil},
		"no logins, not told": {"\"SASL\" \"\"\n", upgraders.Told{}, false, []string{"error", "plain logins", `send = "proxy-v2"`}},
		"no logins, told":     {"\"SASL\" \"CRAM-MD5\"\n", told, false, []string{"error", "plain logins", "allow them: Dovecot's disable_plaintext_auth = no"}},
		"XCLIENT, not told":   {"\"SASL\" \"PLAIN\"\n\"XCLIENT\"\n", upgraders.Told{}, false, []string{"warning", "XCLIENT", "forward { xclient = true }"}},
		"XCLIENT for all":     {"\"SASL\" \"PLAIN\"\n\"XCLIENT\"\n", told, false, []string{"error", "XCLIENT", "login_trusted_networks"}},
		"channel binding":     {"\"SASL\" \"PLAIN SCRAM-SHA-1-PLUS\"\n", told, false, []string{"warning", "SCRAM-SHA-1-PLUS", "auth_mechanisms"}},
		"binding that passes": {"\"SASL\" \"PLAIN SCRAM-SHA-1-PLUS\"\n", told, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			link, heard := serve(c.capabilities+"OK\n", nil)
			link.PassBinding = c.passBinding
			findings, err := audit(context.Background(), link, c.told)
			heard()
			switch {
			case err != nil:
				t.Fatal(err)
			case len(findings) != min(len(c.want), 1):
				t.Errorf("found %+v", findings)
			case c.want != nil && (findings[0].Severity.String() != c.want[0] || !strings.Contains(findings[0].What, c.want[1]) || !strings.Contains(findings[0].Mend, c.want[2])):
				t.Errorf("found %+v", findings)
			}
		})
	}
	link, heard := serve("BYE \"busy\"\n", nil)
	if _, err := audit(context.Background(), link, told); err == nil {
		t.Error("no error for BYE")
	}
	heard()
}
