package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// live runs `sallyport check --live` on a configuration that is never served,
// and returns the lines that are findings.
func live(t *testing.T, hcl string, code int) string {
	t.Helper()
	dir, err := os.MkdirTemp(lab.dir, "live-")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, dir: dir, admin: address(), addrs: map[string]string{}}
	g.configure(hcl)
	r := client(t, "", lab.binary, "check", "--live", "-c", filepath.Join(dir, "sallyport.hcl")).exited(t, code)
	var findings strings.Builder
	for line := range strings.Lines(r.out) {
		if strings.HasPrefix(line, "error: ") || strings.HasPrefix(line, "warning: ") {
			findings.WriteString(line)
		}
	}
	return findings.String()
}

// found demands findings, each with a text in it, and no others.
func found(t *testing.T, findings string, texts ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(findings, "\n"), "\n")
	if findings == "" {
		lines = nil
	}
	for _, text := range texts {
		hit := false
		for i, line := range lines {
			if strings.Contains(line, text) {
				lines[i], hit = "", true
				break
			}
		}
		if !hit {
			t.Errorf("no finding says %q:\n%s", text, findings)
		}
	}
	for _, line := range lines {
		if line != "" {
			t.Errorf("unexpected: %s", line)
		}
	}
}

// check --live finds that a Postfix with the gateway's address in mynetworks
// is an open relay through a gateway that tells no client facts, and finds
// nothing once the facts are told. No mail comes of it.
func TestLivePostfix(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	for _, c := range []struct {
		name, backend string
		code          int
		want          []string
	}{
		{"untold", `servers = [{{postfix "mx"}}]`, 1, []string{"is an open relay through the gateway"}},
		{"proxy-v2", "servers = [{{postfix \"proxy\"}}]\n  send = \"proxy-v2\"", 0, nil},
		{"proxy-v1", "servers = [{{postfix \"proxy\"}}]\n  send = \"proxy-v1\"", 0, nil},
		{"xclient", "servers = [{{postfix \"xclient\"}}]\n  forward { xclient = true }", 0, nil},
		// It believes the gateway's address, and is not told of anybody else.
		{"xclient unused", `servers = [{{postfix "xclient"}}]`, 1, []string{"is an open relay through the gateway", "offers XCLIENT to the gateway"}},
		{"xclient not offered", "servers = [{{postfix \"mx\"}}]\n  forward { xclient = true }", 1, []string{"does not offer XCLIENT"}},
		{"header expected", `servers = [{{postfix "proxy"}}]`, 1, []string{"waits for a PROXY header"}},
		{"header not expected", "servers = [{{postfix \"mx\"}}]\n  send = \"proxy-v2\"", 1, []string{"does not take the PROXY header"}},
		{"not there", `servers = [{{nowhere}}]`, 1, []string{"cannot be reached"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found(t, live(t, mxBy(c.backend), c.code), c.want...)
		})
	}
	t.Cleanup(func() {
		if lines := p.log.lines(`to=<sallyport-check@example\.net>.*status=`); lines != nil {
			t.Errorf("the audit had mail sent: %q", lines)
		}
	})
}

// A Postfix that takes no password of a session in cleartext, and hides AUTH
// from it, is found; one that offers AUTH is not.
func TestLiveSubmission(t *testing.T) {
	t.Parallel()
	theInnerPKI(t)
	thePostfix(t)
	found(t, live(t, mxBy(`servers = [{{postfix "submission"}}]`), 0))
	found(t, live(t, mxBy(`servers = [{{postfix "tlsonly"}}]`), 0), `hides from them: "AUTH PLAIN LOGIN`)
	found(t, live(t, mxBy(`servers = [{{postfix "tls"}}]`), 1), "wants TLS of the gateway")
}

// check --live finds that a Dovecot forbids plain logins, and that it does not
// once the PROXY header tells it of the client's TLS.
func TestLiveDovecot(t *testing.T) {
	t.Parallel()
	theDovecot(t)
	theStrictDovecot(t)
	found(t, live(t, mailboxesBy(`servers = [{{strict "imap"}}]`), 1), "LOGINDISABLED")
	found(t, live(t, mailboxesBy("servers = [{{strict \"proxied\"}}]\n  send = \"proxy-v2\""), 0))
	found(t, live(t, mailboxesBy("servers = [{{strict \"proxied\"}}]\n  send = \"proxy-v1\""), 1), "LOGINDISABLED", "hides from them: ")
	found(t, live(t, mailboxesBy(`servers = [{{dovecot "imap"}}]`), 0))
	found(t, live(t, mailboxesBy("servers = [{{dovecot \"imap\"}}]\n  forward { id = true }"), 0))
	found(t, live(t, mailboxesBy(`servers = [{{strict "proxied"}}]`), 1), "waits for a PROXY header")
}
