package pop3

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// auditOf asks a server with a greeting and an answer to CAPA.
func auditOf(greeting, capa string, told upgraders.Told, passBinding bool) ([]upgraders.Finding, error) {
	gateway, server := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	gateway.SetDeadline(deadline)
	server.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		in := bufio.NewReader(server)
		io.WriteString(server, greeting+"\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			answer := "+OK"
			if strings.TrimSpace(line) == "CAPA" {
				answer = strings.ReplaceAll(capa, "\n", "\r\n")
			}
			io.WriteString(server, answer+"\r\n")
		}
	}()
	findings, err := audit(context.Background(), &upgraders.Link{
		Backend: wire.NewConn(gateway), PassBinding: passBinding, Log: func(string, ...any) {},
	}, told)
	gateway.Close()
	<-done
	return findings, err
}

// Each fault of a server is found, and nothing else; each finding names a
// setting, by what the server was told.
func TestAudit(t *testing.T) {
	told := upgraders.Told{Proxied: true, TLS: true}
	for name, c := range map[string]struct {
		greeting, capa string
		told           upgraders.Told
		passBinding    bool
		want           []string
	}{
		"well kept":           {"+OK ready", "+OK\nUSER\nSASL PLAIN\n.", told, false, nil},
		"SASL PLAIN will do":  {"+OK ready", "+OK\nSASL PLAIN\n.", told, false, nil},
		"before RFC 2449":     {"+OK ready", "-ERR what?", told, false, nil},
		"no logins, not told": {"+OK ready", "+OK\nTOP\nSASL\n.", upgraders.Told{}, false, []string{"error", "plain logins", `send = "proxy-v2"`}},
		"no logins, told":     {"+OK ready", "+OK\nTOP\nSASL CRAM-MD5\n.", told, false, []string{"error", "plain logins", "allow them: Dovecot's disable_plaintext_auth = no"}},
		"XCLIENT, not told":   {"+OK [XCLIENT] ready", "+OK\nUSER\n.", upgraders.Told{}, false, []string{"warning", "XCLIENT", "forward { xclient = true }"}},
		"XCLIENT for all":     {"+OK [XCLIENT] ready", "+OK\nUSER\n.", told, false, []string{"error", "XCLIENT", "login_trusted_networks"}},
		"channel binding":     {"+OK ready", "+OK\nUSER\nSASL SCRAM-SHA-1-PLUS\n.", told, false, []string{"warning", "SCRAM-SHA-1-PLUS", "auth_mechanisms"}},
		"binding that passes": {"+OK ready", "+OK\nUSER\nSASL SCRAM-SHA-1-PLUS\n.", told, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			findings, err := auditOf(c.greeting, c.capa, c.told, c.passBinding)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				if len(findings) > 0 {
					t.Errorf("found %+v", findings)
				}
				return
			}
			if len(findings) != 1 || findings[0].Severity.String() != c.want[0] || !strings.Contains(findings[0].What, c.want[1]) || !strings.Contains(findings[0].Mend, c.want[2]) {
				t.Errorf("found %+v", findings)
			}
		})
	}
	if _, err := auditOf("-ERR busy", "", told, false); err == nil {
		t.Error("no error for -ERR")
	}
}
