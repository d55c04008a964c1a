package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// balancerAddr is where the gateway sees the load balancer come from.
const balancerAddr = "127.0.0.20"

// behindBalancer is a gateway that believes balancerAddr, and tells Postfix
// what it believes.
const behindBalancer = `
policy "behind_lb" {
  proxy_protocol { from = ["` + balancerAddr + `", "192.0.2.0/24"] }
  limits { per_ip = 2 }
}
listener "smtp" "mx" {
  address = [{{listen "mx"}}]
  mode    = "starttls"
  policy  = policy.behind_lb
  backend = backend.postfix
}
listener "smtp" "smtps" {
  address = [{{listen "smtps"}}]
  mode    = "implicit"
  policy  = policy.behind_lb
  backend = backend.postfix
}
listener "smtp" "direct" {
  address = [{{listen "direct"}}]
  mode    = "starttls"
  backend = backend.postfix
}
backend "postfix" {
  servers = [{{postfix "proxy"}}]
  send    = "proxy-v2"
}
`

// haproxy puts a load balancer before an address and returns its own. It comes
// from balancerAddr and asks five times a second how the server is.
func haproxy(t *testing.T, server, send string) string {
	t.Helper()
	need(t, "haproxy")
	dir, err := os.MkdirTemp(lab.dir, "haproxy-")
	if err != nil {
		t.Fatal(err)
	}
	addr := address()
	if send != "" {
		send += " check-send-proxy"
	}
	conf := filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 200
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen front
  bind %s
  source %s
  server gateway %s check inter 200ms %s
`, addr, balancerAddr, server, send)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := start("haproxy", "-db", "-f", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	if err := reachable(d, addr); err != nil {
		t.Fatal(err)
	}
	return addr
}

// Behind HAProxy, with PROXY headers of both versions, before STARTTLS and
// before implicit TLS, the gateway's log, its limits and Postfix know the
// client itself; HAProxy's health checks are no rejections. Control: a HAProxy
// that sends no header gets nobody in.
func TestBalancer(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	for _, send := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(send, func(t *testing.T) {
			t.Parallel()
			gw := serve(t, behindBalancer)
			enter := func(addr, from, listener string) *peer {
				c := dial(t, from, addr)
				if listener == "mx" {
					c.smtpTLS(lab.pki.client("localhost"))
					return c
				}
				c.tls(lab.pki.client("localhost"))
				c.reply(220)
				c.cmd(250, "EHLO client.example.net")
				return c
			}
			for _, listener := range []string{"mx", "smtps"} {
				addr := haproxy(t, gw.addr(listener), send)
				from := loopback()
				c := enter(addr, from, listener)
				to := fresh("balanced")
				c.mail(to+"@raw.example.org", "hello")
				c.cmd(221, "QUIT")
				c.clean()
				gw.session(from).is(t, "outcome", "ok", "security", "encrypted", "listener", listener)
				if mail := string(p.delivered(t, to)); !strings.Contains(mail, "["+from+"]") {
					t.Errorf("Postfix should have seen %s:\n%s", from, mail)
				}

				// Two of one client are the limit, and another client is another.
				from = loopback()
				enter(addr, from, listener)
				enter(addr, from, listener)
				third := dial(t, from, addr)
				if listener == "mx" {
					third.reply(421)
				} else if err := third.tryTLS(lab.pki.client("localhost")); err == nil {
					t.Error("a third session of one client")
				}
				gw.session(from).is(t, "outcome", "limit")
				enter(addr, loopback(), listener)
			}

			// The health checks: some must have been made by now.
			time.Sleep(500 * time.Millisecond)
			for _, listener := range []string{"mx", "smtps"} {
				label := fmt.Sprintf("listener=%q", listener)
				if n := gw.metric("sallyport_dialogue_rejected_total", label, `reason="proxy"`); n != 0 {
					t.Errorf("%s: %v health checks were rejected", listener, n)
				}
				if n := gw.metric("sallyport_sessions_total", label, `outcome="connect_only"`); n == 0 {
					t.Errorf("%s: no health check was seen", listener)
				}
			}

			// What a client says of itself behind the header is not believed.
			from := loopback()
			c := dial(t, from, haproxy(t, gw.addr("mx"), send))
			c.reply(220)
			c.send("PROXY TCP4 192.0.2.95 192.0.2.1 4711 25")
			c.rest()
			gw.session(from).is(t, "outcome", "rejected", "reason", "proxy")
			if lines := gw.sessions("192.0.2.95"); lines != nil {
				t.Errorf("a forged client: %v", lines)
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		gw := serve(t, behindBalancer)
		c := dial(t, loopback(), haproxy(t, gw.addr("mx"), ""))
		c.send("EHLO client.example.net")
		c.closed()
	})
}

// G-27: who is not trusted to tell the client's address cannot tell it, with or
// without a header, and who is trusted must. Such a session ends without a word,
// and reaches no backend. On a listener without proxy_protocol a header is bad
// input. Control: from the trusted address the same header is believed.
func TestForgedHeader(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, behindBalancer)
	const v1 = "PROXY TCP4 192.0.2.94 192.0.2.1 4711 25\r\n"
	const v2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x5e\xc0\x00\x02\x01\x12\x67\x00\x19"
	for name, c := range map[string]struct{ from, says string }{
		"v1 from a client":           {loopback(), v1},
		"v2 from a client":           {loopback(), v2},
		"no header":                  {loopback(), "EHLO client.example.net\r\n"},
		"no header, trusted":         {balancerAddr, "EHLO client.example.net\r\n"},
		"half a header, trusted":     {balancerAddr, v2[:12] + "\x21\x11\xff\xff"},
		"wrong family, trusted":      {balancerAddr, "PROXY TCP6 192.0.2.94 192.0.2.1 4711 25\r\n"},
		"a version to come, trusted": {balancerAddr, v2[:12] + "\x31" + v2[13:]},
	} {
		for _, listener := range []string{"mx", "smtps"} {
			before := len(gw.sessions(c.from))
			peer := dial(t, c.from, gw.addr(listener))
			peer.write([]byte(c.says))
			if rest := peer.rest(); rest != "" {
				t.Errorf("%s: %s answers %q", name, listener, rest)
			}
			if !eventually(patience, func() bool { return len(gw.sessions(c.from)) > before }) {
				t.Fatalf("%s: no session was logged", name)
			}
			gw.session(c.from).is(t, "outcome", "rejected", "reason", "proxy", "backend", "")
		}
	}
	if lines := gw.sessions("192.0.2.94"); lines != nil {
		t.Errorf("believed: %v", lines)
	}

	from := loopback()
	c := dial(t, from, gw.addr("direct"))
	c.write([]byte(v1))
	c.rest()
	gw.session(from).is(t, "outcome", "rejected", "backend", "")

	for _, header := range []string{v1, v2} {
		c := dial(t, balancerAddr, gw.addr("mx"))
		c.write([]byte(header))
		c.smtpTLS(lab.pki.client("localhost"))
		c.cmd(221, "QUIT")
		c.clean()
	}
	if !eventually(patience, func() bool { return len(gw.sessions("192.0.2.94")) == 2 }) {
		t.Errorf("control: a trusted header is not believed: %v", gw.sessions("192.0.2.94"))
	}
	if p.log.lines(`\[`+regexp.QuoteMeta("192.0.2.94")+`\]`) == nil {
		t.Error("control: Postfix was not told")
	}
}
