package imap

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

// auditOf asks a server with a greeting and capabilities.
func auditOf(greeting, capabilities string, told upgraders.Told, passBinding bool) ([]upgraders.Finding, error) {
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
			tag, command, _ := strings.Cut(strings.TrimSpace(line), " ")
			if command == "CAPABILITY" {
				io.WriteString(server, "* CAPABILITY "+capabilities+"\r\n")
			}
			io.WriteString(server, tag+" OK done\r\n")
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
	const ok = "* OK ready"
	for name, c := range map[string]struct {
		greeting, capabilities string
		told                   upgraders.Told
		passBinding            bool
		want                   []string
	}{
		"well kept":                     {ok, "IMAP4rev1 AUTH=PLAIN", told, false, nil},
		"greets with PREAUTH":           {"* PREAUTH hello", "IMAP4rev1", told, false, []string{"error", "PREAUTH", "inetd"}},
		"no logins, and is not told":    {ok, "IMAP4rev1 LOGINDISABLED", upgraders.Told{}, false, []string{"error", "LOGINDISABLED", `send = "proxy-v2"`}},
		"no logins, though it was told": {ok, "IMAP4rev1 logindisabled", told, false, []string{"error", "LOGINDISABLED", "disable_plaintext_auth = no"}},
		"channel binding":               {ok, "IMAP4rev1 AUTH=PLAIN AUTH=SCRAM-SHA-1-PLUS", told, false, []string{"warning", "SCRAM-SHA-1-PLUS", "auth_mechanisms"}},
		"channel binding that passes":   {ok, "IMAP4rev1 AUTH=PLAIN AUTH=SCRAM-SHA-1-PLUS", told, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			findings, err := auditOf(c.greeting, c.capabilities, c.told, c.passBinding)
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
	if _, err := auditOf("* BYE busy", "", told, false); err == nil {
		t.Error("no error for BYE")
	}
}
