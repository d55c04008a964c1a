package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
)

// typed is what of a line stands behind answers to options.
var typed = regexp.MustCompile(`[a-z0-9]+$`)

// lineServer is what a Telnet port often is: options, a prompt, and lines.
func lineServer(s *stub, conn net.Conn) {
	conn.Write([]byte("\xff\xfb\x01\xff\xfd\x2elogin: ")) // WILL ECHO, DO START_TLS
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.note(line)
		if strings.HasSuffix(line, "logout") {
			conn.Write([]byte("goodbye\r\n"))
			conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, r) // the client's answers to options
			return
		}
		fmt.Fprintf(conn, "you are %s\r\n", typed.FindString(line))
	}
}

// telnets is a gateway before a line server: required and allowed cleartext,
// implicit TLS, and one whose backend is the first, reached by START_TLS.
func telnets(t *testing.T) (*gateway, *stub) {
	s := serveStub(t, lineServer)
	return serve(t, fmt.Sprintf(`
listener "telnet" "telnet" {
  address = [{{listen "telnet"}}]
  mode    = "starttls"
  backend = backend.lines
}
listener "telnet" "telnets" {
  address = [{{listen "telnets"}}]
  mode    = "implicit"
  backend = backend.lines
}
listener "telnet" "open" {
  address   = [{{listen "open"}}]
  mode      = "starttls"
  cleartext = "allow"
  backend   = backend.lines
}
listener "telnet" "again" {
  address = [{{listen "again"}}]
  mode    = "implicit"
  backend = backend.gateway
}
backend "lines" { servers = [%q] }
backend "gateway" {
  servers = [{{listen "telnet"}}]
  tls {
    mode    = "starttls"
    ca_file = "{{ca}}"
    server_name = "localhost"
  }
}
`, s.addr)), s
}

// openssl asks for START_TLS as it does of any server, and logs in; the server
// is told nothing of START_TLS but that it is refused.
func TestTelnetOpenSSL(t *testing.T) {
	t.Parallel()
	g, s := telnets(t)
	openssl := func(listener string, more ...string) result {
		return client(t, "u1\nlogout\n", append([]string{"openssl", "s_client", "-connect", g.addr(listener), "-CAfile", lab.pki.ca,
			"-verify_return_error", "-verify_hostname", "localhost", "-quiet", "-crlf"}, more...)...)
	}
	check := func(listener string, r result) {
		t.Helper()
		r.says(t, "\xff\xfb\x01login: ", "you are u1", "goodbye").silentOf(t, "\xff\xfd\x2e")
		g.session(listener).is(t, "security", "encrypted", "protocol", "telnet")
	}
	check("telnet", openssl("telnet", "-starttls", "telnet"))
	check("telnets", openssl("telnets"))
	// The gateway as the client: of itself, by START_TLS.
	check("again", openssl("again"))
	if n := len(s.heard("u1")); n != 3 {
		t.Errorf("the server heard %d logins of 3", n)
	}
	if r := openssl("telnets", "-alpn", "http/1.1"); r.code == 0 {
		t.Errorf("another protocol's ALPN is taken:\n%s", r.out)
	}
}

// curl knows Telnet and no START_TLS, and says so: it is told that TLS is
// required, and served where it is not.
func TestTelnetCurl(t *testing.T) {
	t.Parallel()
	g, s := telnets(t)
	curl := func(listener string) result {
		return client(t, "u2\r\nlogout\r\n", "curl", "-sS", "--max-time", "20", "telnet://"+g.addr(listener))
	}
	curl("telnet").says(t, "TLS is required")
	g.session("telnet").is(t, "security", "cleartext", "reason", "tls_required")
	if heard := s.heard("u2"); heard != nil {
		t.Errorf("the server heard %q", heard)
	}
	curl("open").says(t, "login: ", "you are u2", "goodbye")
	g.session("open").is(t, "security", "cleartext")
}
