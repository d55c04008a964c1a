package smtp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// auditOf lets a server that answers by a table be asked. What the table does
// not have is answered 250. It returns what the server was asked, too.
func auditOf(t *testing.T, v variant, answers map[string]string, forward upgraders.Forward, told upgraders.Told) (findings []upgraders.Finding, asked []string, err error) {
	t.Helper()
	gateway, server := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	gateway.SetDeadline(deadline)
	server.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		in := bufio.NewReader(server)
		io.WriteString(server, "220 backend.example.org\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSpace(line)
			asked = append(asked, line)
			answer := "250 OK"
			for prefix, a := range answers {
				if strings.HasPrefix(line, prefix) {
					answer = a
				}
			}
			if answer == "" {
				return
			}
			io.WriteString(server, strings.ReplaceAll(answer, "\n", "\r\n")+"\r\n")
		}
	}()
	client := netip.MustParseAddrPort("192.0.2.1:49152")
	findings, err = v.audit(context.Background(), &upgraders.Link{
		Backend: wire.NewConn(gateway),
		Facts:   upgraders.Facts{Client: client, Local: client, Name: "gw.example.org"},
		Forward: forward,
		Log:     func(string, ...any) {},
	}, told)
	gateway.Close()
	<-done
	if i := slices.IndexFunc(asked, func(line string) bool { return strings.HasPrefix(line, "DATA") || strings.HasPrefix(line, "BDAT") }); i >= 0 {
		t.Errorf("the audit went on to %s", asked[i])
	}
	return findings, asked, err
}

// Each fault of a server is found, and nothing else; each finding names a
// setting.
func TestAudit(t *testing.T) {
	submission := upgraders.Told{Proxied: true, TLS: true, Ports: []uint16{465}}
	mx := upgraders.Told{Ports: []uint16{25}}
	const denied = "554 5.7.1 <sallyport-check@example.net>: Relay access denied"
	for name, c := range map[string]struct {
		variant variant
		answers map[string]string
		forward upgraders.Forward
		told    upgraders.Told
		want    []string // severity, words, a setting
	}{
		"well kept": {smtpVariant, map[string]string{"EHLO": "250-backend\n250 AUTH PLAIN", "RCPT": denied}, upgraders.Forward{}, submission, nil},
		"an MX without AUTH": {smtpVariant, map[string]string{"AUTH": "503 5.5.1 Error: authentication not enabled", "RCPT": denied},
			upgraders.Forward{}, mx, nil},
		"open relay for the gateway": {smtpVariant, map[string]string{"AUTH": "503 no"}, upgraders.Forward{}, mx,
			[]string{"error", "open relay through the gateway", "mynetworks"}},
		"open relay for all": {smtpVariant, map[string]string{"EHLO": "250-backend\n250 AUTH PLAIN"}, upgraders.Forward{}, submission,
			[]string{"error", "is an open relay", "smtpd_relay_restrictions"}},
		"relay deferred": {smtpVariant, map[string]string{"AUTH": "503 no", "RCPT": "454 4.7.1 Relay access denied"}, upgraders.Forward{}, mx, nil},
		"greylisted": {smtpVariant, map[string]string{"AUTH": "503 no", "RCPT": "450 4.2.0 Greylisted"}, upgraders.Forward{}, mx,
			[]string{"warning", "does not say whether it relays", "ask again"}},
		"TLS wanted": {smtpVariant, map[string]string{"AUTH": "530 5.7.0 Must issue a STARTTLS command first", "MAIL": "530 5.7.0 Must issue a STARTTLS command first"}, upgraders.Forward{}, mx,
			[]string{"error", "wants TLS of the gateway", "smtpd_tls_security_level"}},
		"login wanted": {smtpVariant, map[string]string{"EHLO": "250-backend\n250 AUTH PLAIN", "MAIL": "530 5.7.0 Authentication required"},
			upgraders.Forward{}, submission, nil},
		"XCLIENT for the gateway": {smtpVariant, map[string]string{"EHLO": "250-backend\n250 XCLIENT NAME ADDR", "AUTH": "503 no", "RCPT": denied},
			upgraders.Forward{}, mx, []string{"warning", "offers XCLIENT to the gateway", "forward { xclient = true }"}},
		"XCLIENT used": {smtpVariant, map[string]string{"EHLO gw": "250-backend\n250 XCLIENT NAME ADDR", "XCLIENT": "220 again", "AUTH": "503 no", "RCPT": denied},
			upgraders.Forward{XCLIENT: true}, mx, []string{"error", "offers XCLIENT to a client from nowhere", "smtpd_authorized_xclient_hosts"}},
		"XFORWARD for all": {smtpVariant, map[string]string{"EHLO": "250-backend\n250-AUTH PLAIN\n250 XFORWARD NAME", "RCPT": denied},
			upgraders.Forward{}, submission, []string{"error", "offers XFORWARD", "smtpd_authorized_xforward_hosts"}},
		"AUTH hidden": {smtpVariant, map[string]string{"AUTH": "538 5.7.11 Encryption required for requested authentication mechanism", "RCPT": denied},
			upgraders.Forward{}, mx, []string{"error", "hides AUTH", "smtpd_tls_auth_only"}},
		"submission without AUTH": {smtpVariant, map[string]string{"AUTH": "503 AUTH command used when not advertised", "RCPT": denied},
			upgraders.Forward{}, submission, []string{"error", "offers no AUTH", "auth_advertise_hosts"}},
		"AUTH not listed and taken": {smtpVariant, map[string]string{"AUTH": "334 ", "*": "501 cancelled", "RCPT": denied}, upgraders.Forward{}, mx, nil},
		"channel binding": {smtpVariant, map[string]string{"EHLO": "250-backend\n250 AUTH PLAIN SCRAM-SHA-256-PLUS", "RCPT": denied},
			upgraders.Forward{}, submission, []string{"warning", "SCRAM-SHA-256-PLUS", "smtpd_sasl_mechanism_filter"}},
		"LMTP delivers to whom it knows": {lmtpVariant, map[string]string{"AUTH": "503 no"}, upgraders.Forward{}, mx, nil},
	} {
		t.Run(name, func(t *testing.T) {
			findings, asked, err := auditOf(t, c.variant, c.answers, c.forward, c.told)
			if err != nil {
				t.Fatal(err)
			}
			if last := asked[len(asked)-1]; last != "QUIT" {
				t.Errorf("the last word is %q", last)
			}
			if c.want == nil {
				if len(findings) > 0 {
					t.Errorf("found %+v", findings)
				}
				return
			}
			if len(findings) != 1 {
				t.Fatalf("found %+v", findings)
			}
			f := findings[0]
			if f.Severity.String() != c.want[0] || !strings.Contains(f.What, c.want[1]) || !strings.Contains(f.Mend, c.want[2]) {
				t.Errorf("found %+v", f)
			}
		})
	}
}

// A transaction is taken back whatever its answer was, and a foreign mailbox
// is the only recipient.
func TestAuditTakesBack(t *testing.T) {
	_, asked, err := auditOf(t, smtpVariant, nil, upgraders.Forward{}, upgraders.Told{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"EHLO gw.example.org", "MAIL FROM:<>", "RCPT TO:<sallyport-check@example.net>", "RSET", "AUTH PLAIN", "QUIT"}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

// A server that refuses, or hangs up on a question, is an error, with what it
// has answered before.
func TestAuditOfOneThatLeaves(t *testing.T) {
	if _, _, err := auditOf(t, smtpVariant, map[string]string{"EHLO": "421 busy"}, upgraders.Forward{}, upgraders.Told{}); err == nil {
		t.Error("no error for 421")
	}
	findings, _, err := auditOf(t, smtpVariant, map[string]string{"AUTH": ""}, upgraders.Forward{}, upgraders.Told{})
	if err == nil || len(findings) != 1 {
		t.Errorf("%v, %+v", err, findings)
	}
}
