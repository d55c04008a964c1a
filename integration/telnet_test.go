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
		var bytes []byte
		for !strings.HasSuffix(string(bytes), "\n") && !strings.HasSuffix(string(bytes), "\r\x00") { // RFC 854: both end lines
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			bytes = append(bytes, b)
		}
		line := strings.TrimRight(string(bytes), "\r\n\x00")
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

// s3270, a terminal emulator for mainframes, answers START_TLS by itself, verifies
// the certificate and says that the session is secure; L: is its implicit TLS.
// Control: without the authority it does not come.
func TestTelnetS3270(t *testing.T) {
	t.Parallel()
	g, s := telnets(t)
	s3270 := func(host, user string) result {
		script := "Connect(" + host + ")\nWait(10,InputField)\nQuery(Tls)\nString(" + user + ")\nEnter()\nExpect(\"you are " + user + "\",10)\nAscii()\nQuit()\n"
		return client(t, script, "s3270", "-utf8", "-cafile", lab.pki.ca, "-accepthostname", "localhost", "-connecttimeout", "20")
	}
	for listener, host := range map[string]string{"telnet": g.addr("telnet"), "telnets": "L:" + g.addr("telnets"), "open": g.addr("open")} {
		user := "on" + listener
		s3270(host, user).says(t, "secure host-verified", "login: ", "you are "+user).silentOf(t, "not secure")
		g.session(listener).is(t, "security", "encrypted", "protocol", "telnet")
		if s.heard(user) == nil {
			t.Errorf("%s: the server heard nobody", listener)
		}
	}
	client(t, "Connect("+g.addr("telnet")+")\nWait(10,InputField)\nQuit()\n", "s3270", "-utf8").silentOf(t, "login: ")
	g.waitLog(`"listener":"telnet".*"outcome":"handshake_failed"`)
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
