package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const ngircdConf = `[Global]
Name = irc.example.org
Info = test
Listen = 127.0.0.1
Ports = %s
ServerGID = 65534
ServerUID = 65534
[Limits]
MaxConnectionsIP = 0
[Options]
DNS = no
Ident = no
PAM = no
WebircPassword = %s
`

// ngircd starts a server with TLS off, that takes WEBIRC.
func ngircd(t *testing.T) string {
	t.Helper()
	need(t, "ngircd")
	addr := address()
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(t.TempDir(), "ngircd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, ngircdConf, port, password), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := start("ngircd", "-n", "-f", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	if err := reachable(d, addr); err != nil {
		t.Fatal(err)
	}
	return addr
}

// chat is a gateway before an IRC server, on both kinds of port, and one whose
// backend is the first, reached by STARTTLS.
func chat(t *testing.T, addr string) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener "irc" "irc" {
  address = [{{listen "irc"}}]
  mode    = "starttls"
  backend = backend.chat
  options {
    sts_port = 6697
  }
}
listener "irc" "ircs" {
  address = [{{listen "ircs"}}]
  mode    = "implicit"
  backend = backend.chat
  options {
    sts_duration = "720h"
  }
}
listener "irc" "open" {
  address   = [{{listen "open"}}]
  mode      = "starttls"
  cleartext = "allow"
  backend   = backend.chat
}
listener "irc" "again" {
  address = [{{listen "again"}}]
  mode    = "implicit"
  backend = backend.gateway
}
backend "chat" {
  servers = [%q]
  forward {
    webirc = %q
  }
}
backend "gateway" {
  servers = [{{listen "irc"}}]
  tls {
    mode        = "starttls"
    ca_file     = "{{ca}}"
    server_name = "localhost"
  }
}
`, addr, password))
}

// register is the way of a client that knows capabilities.
func (p *peer) register(nick string) {
	p.t.Helper()
	p.send("NICK %s\r\nUSER %s 0 * :%s", nick, nick, nick)
	p.until(` 001 ` + nick + ` `)
}

// Two clients talk, one by STARTTLS and one by implicit TLS; each is to the
// other, by WEBIRC, whence it came. STS is announced on both ports, each in its
// words, and nobody offers TLS inside TLS.
func TestChat(t *testing.T) {
	t.Parallel()
	g := chat(t, ngircd(t))
	a := dial(t, "127.0.7.1", g.addr("irc"))
	a.send("CAP LS 302")
	a.want(` CAP \* LS :tls sts=port=6697$`)
	a.send("STARTTLS")
	a.want(` 670 `)
	a.tls(lab.pki.client("localhost"))
	a.register("alice")
	b := dialTLS(t, "127.0.7.2", g.addr("ircs"), lab.pki.client("localhost"))
	b.send("CAP LS 302")
	if line := b.until(` CAP \* LS `); !strings.Contains(line, "sts=duration=2592000") || strings.Contains(line, "tls") {
		t.Errorf("inside TLS the server offers %q", line)
	}
	b.send("WEBIRC %s x 192.0.2.9 192.0.2.9", password)
	b.want(` 421 `)
	b.send("CAP END")
	b.register("bob")
	b.send("JOIN #test")
	b.until(` 366 `)
	a.send("JOIN #test")
	a.until(` 366 `)
	a.send("PRIVMSG #test :hello bob")
	b.until(`^:alice!\S+@127\.0\.7\.1 PRIVMSG #test :hello bob$`)
	b.send("PRIVMSG alice :hello alice")
	a.until(`^:bob!\S+@127\.0\.7\.2 PRIVMSG alice :hello alice$`)
	for _, p := range []*peer{a, b} {
		p.send("QUIT :bye")
		p.rest()
	}
	g.session("127.0.7.1").is(t, "security", "encrypted", "protocol", "irc", "outcome", "ok")
	g.session("127.0.7.2").is(t, "security", "encrypted", "outcome", "ok")
}

// Without TLS nobody registers where it is required. Where it is not, a client
// does as without a gateway, and the server sees whence it came.
func TestChatCleartext(t *testing.T) {
	t.Parallel()
	g := chat(t, ngircd(t))
	p := dial(t, "127.0.7.3", g.addr("irc"))
	p.send("NICK carol")
	p.want(`^ERROR :.*TLS is required; use STARTTLS, or port 6697$`)
	p.closed()
	g.session("127.0.7.3").is(t, "security", "cleartext", "reason", "tls_required")

	p = dial(t, "127.0.7.4", g.addr("open"))
	p.send("CAP LS 302")
	p.until(` CAP \* LS :.*tls`)
	p.send("NICK dave\r\nUSER dave 0 * :dave\r\nCAP END")
	p.until(` 001 dave `)
	p.send("WHOIS dave")
	p.until(` 311 dave dave \S+ 127\.0\.7\.4 `)
	p.send("STARTTLS")
	p.until(` 691 `)
	p.send("QUIT")
	p.rest()
	g.session("127.0.7.4").is(t, "security", "cleartext")
}

// openssl asks for STARTTLS as it does of any server, and the gateway does so
// of another gateway.
func TestChatOpenSSL(t *testing.T) {
	t.Parallel()
	g := chat(t, ngircd(t))
	for listener, more := range map[string][]string{
		"irc":   {"-starttls", "irc"},
		"ircs":  {"-alpn", "irc"},
		"again": nil,
	} {
		argv := append([]string{"openssl", "s_client", "-connect", g.addr(listener), "-CAfile", lab.pki.ca,
			"-verify_return_error", "-verify_hostname", "localhost", "-quiet", "-crlf"}, more...)
		client(t, "NICK erin\nUSER erin 0 * :erin\nQUIT\n", argv...).says(t, " 001 erin ", "ERROR :")
		g.session(listener).is(t, "security", "encrypted")
	}
}

// irssi asks for STARTTLS, verifies, and is welcome.
func TestChatIrssi(t *testing.T) {
	t.Parallel()
	need(t, "irssi", "script")
	g := chat(t, ngircd(t))
	home := t.TempDir()
	conf := fmt.Sprintf(`servers = ( { address = "localhost"; port = "%s"; chatnet = "lab"; autoconnect = "yes"; starttls = "yes"; tls_verify = "yes"; tls_cafile = "%s"; } );
chatnets = { lab = { type = "IRC"; nick = "frank"; }; };
settings = { core = { real_name = "frank"; user_name = "frank"; nick = "frank"; resolve_prefer_ipv6 = "no"; }; };
`, g.port("irc"), lab.pki.ca)
	if err := os.WriteFile(filepath.Join(home, "config"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	client(t, "", "sh", "-c", `(sleep 4; printf '/quit\r'; sleep 1) | TERM=xterm script -qec "irssi --home=`+home+`" /dev/null`).
		says(t, "Certificate Fingerprint", "Welcome to the")
	g.session("irc").is(t, "security", "encrypted", "protocol", "irc")
}
