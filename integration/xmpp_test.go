package integration

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// prosodyConf is a server without TLS for clients that stand behind a gateway.
// Its two hosts have the same users. Other servers are reached where the map
// says, since no DNS on loopback does.
const prosodyConf = `run_as_root = true
daemonize = false
pidfile = "%[1]s/pid"
data_path = "%[1]s/data"
plugin_paths = { "%[1]s/plugins" }
log = { debug = "%[1]s/log" }
interfaces = { "127.0.0.1" }
c2s_ports = { %[2]s }
s2s_ports = { %[3]s }
modules_enabled = { "roster", "saslauth", "presence", "message", "iq", "dialback", "disco", "ping", "s2s_map", %[4]s }
modules_disabled = { "offline", "s2s_auth_certs" }
authentication = "internal_plain"
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
s2s_require_encryption = false
s2s_secure_auth = false
s2s_map = { %[5]s }
%[6]s
`

// s2sMap is a module of Prosody's: where the servers of other hosts are, and
// whether TLS comes first there.
const s2sMap = `module:set_global();
local service, basic = require "net.resolvers.service", require "net.resolvers.basic";
local map, direct = module:get_option("s2s_map"), module:get_option("s2s_direct");
local nowhere = { next = function (self, found) found(nil); end };
function service.new(host, name, kind, extra)
	if not map[host] or (name == "xmpps-server") ~= (direct == true) then return nowhere; end
	return basic.new("127.0.0.1", map[host], kind, extra);
end
`

// A prosody is a server of XMPP.
type prosody struct {
	c2s, s2s string // addresses
	dir      string
	daemon   *daemon
}

func newProsody(t *testing.T) *prosody {
	t.Helper()
	need(t, "prosody")
	return &prosody{c2s: address(), s2s: address(), dir: t.TempDir()}
}

// start runs it for hosts, with users alice and bob in each; others says at
// which ports the servers of other hosts are.
func (p *prosody) start(t *testing.T, modules, more string, others map[string]string, hosts ...string) *prosody {
	t.Helper()
	_, c2s, _ := net.SplitHostPort(p.c2s)
	_, s2s, _ := net.SplitHostPort(p.s2s)
	var where strings.Builder
	for host, addr := range others {
		_, port, _ := net.SplitHostPort(addr)
		fmt.Fprintf(&where, "[%q] = %s; ", host, port)
	}
	for _, host := range hosts {
		more += fmt.Sprintf("\nVirtualHost %q\n", host)
		for _, user := range []string{"alice", "bob"} {
			p.write(t, "data/"+strings.ReplaceAll(host, ".", "%2e")+"/accounts/"+user+".dat", fmt.Sprintf("return { [\"password\"] = %q; };", password))
		}
	}
	p.write(t, "plugins/mod_s2s_map.lua", s2sMap)
	conf := p.write(t, "prosody.cfg.lua", fmt.Sprintf(prosodyConf, p.dir, c2s, s2s, modules, where.String(), more))
	d, err := start("prosody", "--config", conf, "-F")
	if err != nil {
		t.Fatal(err)
	}
	p.daemon = d
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
			t.Logf("prosody of %v: %s", hosts, log)
		}
	})
	for _, addr := range []string{p.c2s, p.s2s} {
		if err := reachable(d, addr); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *prosody) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(p.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// talk is a gateway before a Prosody, on both kinds of port, for clients and
// servers, with and without cleartext, and one whose backend is the first,
// reached by STARTTLS.
func talk(t *testing.T, p *prosody) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener "xmpp" "xmpp" {
  address  = [{{listen "xmpp"}}]
  mode     = "starttls"
  hostname = "localhost"
  route {
    host    = ["localhost"]
    backend = backend.talk
  }
  route {
    host    = ["*.example.org"]
    backend = backend.talk
  }
}
listener "xmpp" "xmpps" {
  address  = [{{listen "xmpps"}}]
  mode     = "implicit"
  hostname = "localhost"
  backend  = backend.talk
}
listener "xmpp" "open" {
  address        = [{{listen "open"}}]
  mode           = "starttls"
  hostname       = "localhost"
  cleartext      = "allow"
  cleartext_auth = true
  backend        = backend.talk
}
listener "xmpp" "again" {
  address  = [{{listen "again"}}]
  mode     = "implicit"
  hostname = "localhost"
  backend  = backend.gateway
}
listener "xmpp-server" "servers" {
  address  = [{{listen "servers"}}]
  mode     = "starttls"
  hostname = "localhost"
  backend  = backend.servers
}
listener "xmpp-server" "servers-tls" {
  address  = [{{listen "servers-tls"}}]
  mode     = "implicit"
  hostname = "localhost"
  backend  = backend.servers
}
listener "xmpp-server" "servers-open" {
  address   = [{{listen "servers-open"}}]
  mode      = "starttls"
  hostname  = "localhost"
  cleartext = "allow"
  backend   = backend.servers
}
backend "talk" {
  servers = [%q]
}
backend "servers" {
  servers = [%q]
}
backend "gateway" {
  servers = [{{listen "xmpp"}}]
  tls {
    mode        = "starttls"
    ca_file     = "{{ca}}"
    server_name = "localhost"
  }
}
`, p.c2s, p.s2s))
}

// sendxmpp is a client that somebody else wrote.
func sendxmpp(t *testing.T, addr, from, to, text string, more ...string) result {
	t.Helper()
	return client(t, text, append(append([]string{"go-sendxmpp", "-d", "-u", from, "-p", password, "-j", addr}, more...), to)...)
}

// go-sendxmpp logs in by STARTTLS, and by TLS from the first byte.
func TestXMPPSend(t *testing.T) {
	t.Parallel()
	need(t, "go-sendxmpp")
	g := talk(t, newProsody(t).start(t, "", "", nil, "localhost"))
	sendxmpp(t, g.addr("xmpp"), "alice@localhost", "bob@localhost", "hello").ok(t)
	g.session("xmpp").is(t, "security", "encrypted", "protocol", "xmpp")
	sendxmpp(t, g.addr("xmpps"), "alice@localhost", "bob@localhost", "hello", "-t").ok(t)
	g.session("xmpps").is(t, "security", "encrypted")
	sendxmpp(t, g.addr("again"), "alice@localhost", "bob@localhost", "hello", "-t").ok(t)
}

func needSlixmpp(t *testing.T) {
	t.Helper()
	need(t, "python3")
	if client(t, "", "/usr/bin/python3", "-c", "import slixmpp").code != 0 {
		lacking(t, "slixmpp is not installed: apt-get install python3-slixmpp")
	}
}

// slixmppTalk lets alice by STARTTLS and bob by TLS from the first byte write to
// each other, and tells how long alice's text was that bob got.
const slixmppTalk = `
import asyncio, ssl, sys
from slixmpp import ClientXMPP
host, starttls, direct, password, ca, domain = sys.argv[1:]
got = asyncio.Queue()
def user(name, port, direct):
    c = ClientXMPP(name + "@" + domain, password)
    c.ca_certs = ca
    c.ready = asyncio.Event()
    async def start(_):
        c.send_presence()
        await c.get_roster()
        c.ready.set()
    c.add_event_handler("session_start", start)
    c.add_event_handler("failed_all_auth", lambda _: sys.exit("login refused"))
    c.add_event_handler("message", lambda m: got.put_nowait((name, str(m["from"].bare), m["body"])))
    c.connect((host, int(port)), use_ssl=direct, force_starttls=not direct)
    return c
async def main():
    alice, bob = user("alice", starttls, False), user("bob", direct, True)
    await asyncio.wait_for(asyncio.gather(alice.ready.wait(), bob.ready.wait()), 30)
    alice.send_message(mto=bob.boundjid.full, mbody="hello bob " + "x" * 100000, mtype="chat")
    who, whence, text = await asyncio.wait_for(got.get(), 30)
    print(who, "heard from", whence, text[:9], len(text))
    bob.send_message(mto=alice.boundjid.full, mbody="hello alice", mtype="chat")
    who, whence, text = await asyncio.wait_for(got.get(), 30)
    print(who, "heard from", whence, text)
    print("features", sorted(alice.features))
    await alice.disconnect()
    await bob.disconnect()
asyncio.run(main())
`

// slixmpp, which verifies what it is shown, logs two users in who write to each
// other, by STARTTLS and by TLS from the first byte. Control: a certificate that
// is not the host's is refused.
func TestXMPPTalk(t *testing.T) {
	t.Parallel()
	needSlixmpp(t)
	g := talk(t, newProsody(t).start(t, "", "", nil, "localhost"))
	client(t, "", "/usr/bin/python3", "-c", slixmppTalk, "127.0.0.1", g.port("xmpp"), g.port("xmpps"), password, lab.pki.ca, "localhost").ok(t).
		says(t, "bob heard from alice@localhost hello bob 100010", "alice heard from bob@localhost hello alice", "'starttls'")
	for _, listener := range []string{"xmpp", "xmpps"} {
		g.session(listener).is(t, "security", "encrypted", "protocol", "xmpp")
	}
}

// openssl and gnutls ask as clients do.
func TestXMPPTools(t *testing.T) {
	t.Parallel()
	need(t, "openssl", "gnutls-cli")
	p := newProsody(t).start(t, "", "", nil, "localhost")
	g := talk(t, p)
	for listener, protocol := range map[string]string{"xmpp": "xmpp", "open": "xmpp", "servers": "xmpp-server", "servers-open": "xmpp-server"} {
		client(t, "", "openssl", "s_client", "-starttls", protocol, "-xmpphost", "localhost", "-connect", g.addr(listener), "-CAfile", lab.pki.ca,
			"-verify_return_error", "-verify_hostname", "localhost", "-brief").ok(t).says(t, "CONNECTION ESTABLISHED")
		g.session(listener).is(t, "security", "encrypted")
	}
	for listener, id := range map[string]string{"xmpps": "xmpp-client", "servers-tls": "xmpp-server"} {
		client(t, "", "openssl", "s_client", "-alpn", id, "-connect", g.addr(listener), "-CAfile", lab.pki.ca, "-verify_return_error", "-brief").ok(t).says(t, "CONNECTION ESTABLISHED")
	}
	client(t, "", "gnutls-cli", "--x509cafile="+lab.pki.ca, "-p", g.port("xmpp"), "--starttls-proto=xmpp", "localhost").ok(t).says(t, "Handshake was completed")
	for _, url := range []string{"xmpp://" + g.addr("xmpp"), "xmpps://" + g.addr("xmpps"), "xmpp-server://" + g.addr("servers")} {
		client(t, "", lab.binary, "probe", url, "--servername", "localhost", "--cacert", lab.pki.ca).ok(t).says(t, "TLS 1.3")
	}
	client(t, "", lab.binary, "probe", "xmpp://"+p.c2s, "--servername", "localhost").exited(t, 1).says(t, "TLS is not offered")
	client(t, "", lab.binary, "probe", "xmpp://"+g.addr("xmpp"), "--servername", "nobody.example.net").exited(t, 1).says(t, "host-unknown")
}

// Two servers that nobody here wrote talk by dialback: the far one asks the
// gateway for TLS, or begins with it, and the near one, which has none, calls back to verify the key.
// A message crosses, and its answer. Controls: without TLS the gateway refuses
// such a server, unless it may come in cleartext; then it does, and the id that
// the key is made of is that of the near server's own stream.
func TestXMPPDialback(t *testing.T) {
	t.Parallel()
	needSlixmpp(t)
	for listener, want := range map[string]struct{ tls, more, security string }{
		"servers":      {`"tls"`, "", "encrypted"},
		"servers-tls":  {`"tls"`, "s2s_direct = true", "encrypted"},
		"servers-open": {"", "", "cleartext"},
	} {
		near, far := newProsody(t), newProsody(t)
		near.start(t, "", "", map[string]string{"far.example.net": far.s2s}, "localhost")
		g := talk(t, near)
		far.start(t, want.tls, want.more, map[string]string{"localhost": g.addr(listener)}, "far.example.net")
		_, c2s, _ := net.SplitHostPort(far.c2s)
		client(t, "", "/usr/bin/python3", "-c", slixmppAcross, "127.0.0.1", c2s, g.port("xmpp"), password, lab.pki.ca).ok(t).
			says(t, "alice heard from bob@far.example.net hello alice", "bob heard from alice@localhost hello bob")
		far.daemon.stop() // which ends its streams
		g.session(listener).is(t, "security", want.security, "protocol", "xmpp-server", "outcome", "ok")
	}

	near, far := newProsody(t), newProsody(t)
	near.start(t, "", "", map[string]string{"far.example.net": far.s2s}, "localhost")
	g := talk(t, near)
	far.start(t, "", "", map[string]string{"localhost": g.addr("servers")}, "far.example.net")
	_, c2s, _ := net.SplitHostPort(far.c2s)
	client(t, "", "/usr/bin/python3", "-c", slixmppAcross, "127.0.0.1", c2s, g.port("xmpp"), password, lab.pki.ca).exited(t, 1).says(t, "returned to bob")
	g.session("servers").is(t, "security", "cleartext", "reason", "tls_required")
}

// slixmppAcross lets bob, who is at the far server without a gateway, write to
// alice, who is behind it, and alice answer.
const slixmppAcross = `
import asyncio, sys
from slixmpp import ClientXMPP
host, far, near, password, ca = sys.argv[1:]
got = asyncio.Queue()
def user(jid, port, starttls):
    c = ClientXMPP(jid, password)
    c.ca_certs = ca
    c["feature_mechanisms"].unencrypted_scram = True
    c.ready = asyncio.Event()
    async def start(_):
        c.send_presence()
        c.ready.set()
    c.add_event_handler("session_start", start)
    c.add_event_handler("message_error", lambda _: got.put_nowait(None))
    c.add_event_handler("message", lambda m: m["type"] == "chat" and got.put_nowait((c.boundjid.user, str(m["from"].bare), m["body"])))
    c.connect((host, int(port)), force_starttls=starttls, disable_starttls=not starttls)
    return c
async def main():
    bob, alice = user("bob@far.example.net", far, False), user("alice@localhost", near, True)
    await asyncio.wait_for(asyncio.gather(alice.ready.wait(), bob.ready.wait()), 30)
    bob.send_message(mto=alice.boundjid.full, mbody="hello alice", mtype="chat")
    answer = await asyncio.wait_for(got.get(), 30)
    if answer is None:
        sys.exit("returned to bob")
    print("%s heard from %s %s" % answer)
    alice.send_message(mto=bob.boundjid.full, mbody="hello bob", mtype="chat")
    print("%s heard from %s %s" % await asyncio.wait_for(got.get(), 30))
    await alice.disconnect()
    await bob.disconnect()
asyncio.run(main())
`

// hears reads until a text is there; XMPP has no lines.
func (p *peer) hears(text string) string {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(patience))
	var heard strings.Builder
	for !strings.HasSuffix(heard.String(), text) {
		b, err := p.r.ReadByte()
		if err != nil {
			p.t.Fatalf("heard %q, then %v; want %q", heard.String(), err, text)
		}
		heard.WriteByte(b)
	}
	return heard.String()
}

// enterXMPP opens a stream, logs in, and returns the features that follow.
func (p *peer) enterXMPP() string {
	p.t.Helper()
	stream := "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
	p.write([]byte(stream))
	p.hears("</stream:features>")
	p.write([]byte("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + base64.StdEncoding.EncodeToString([]byte("\x00alice\x00"+password)) + "</auth>"))
	p.hears("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
	p.write([]byte(stream))
	return p.hears("</stream:features>")
}

// A session in cleartext works as without the gateway, and is not upgraded by a
// server that has TLS of its own: neither before nor after the login. Control:
// that server offers TLS once more to who has logged in.
func TestXMPPCleartext(t *testing.T) {
	t.Parallel()
	tls := fmt.Sprintf("ssl = { certificate = %q; key = %q }", lab.pki.file("localhost.crt"), lab.pki.file("localhost.key"))
	p := newProsody(t).start(t, `"tls"`, tls, nil, "localhost")
	g := talk(t, p)
	const starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'"
	if features := dial(t, "", p.c2s).enterXMPP(); !strings.Contains(features, starttls) {
		t.Errorf("the server itself does not offer TLS after the login: %s", features)
	}
	c := dial(t, "", g.addr("open"))
	if features := c.enterXMPP(); strings.Contains(features, starttls) {
		t.Errorf("in cleartext the server offers TLS: %s", features)
	}
	c.write([]byte("<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"))
	c.hears("</jid></bind></iq>")
	c.write([]byte(starttls + "/>"))
	c.hears("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>")
	c.closed()
	g.session("open").is(t, "security", "cleartext", "reason", "syntax")

	c = dialTLS(t, "", g.addr("xmpps"), lab.pki.client("localhost"))
	if features := c.enterXMPP(); strings.Contains(features, starttls) {
		t.Errorf("inside TLS the server offers TLS: %s", features)
	}
}

// A server that wants TLS before it lets anyone log in is found by `check
// --live`, and named in the log of a session.
func TestXMPPRequired(t *testing.T) {
	t.Parallel()
	tls := fmt.Sprintf("ssl = { certificate = %q; key = %q }", lab.pki.file("localhost.crt"), lab.pki.file("localhost.key"))
	p := newProsody(t).start(t, `"tls"`, tls+"\nc2s_require_encryption = true", nil, "localhost")
	g := talk(t, p)
	client(t, "", lab.binary, "check", "--live", "-c", g.path()).exited(t, 1).says(t, "wants TLS of the gateway before it lets anyone log in", "c2s_require_encryption = false")
	c := dialTLS(t, "", g.addr("xmpps"), lab.pki.client("localhost"))
	c.write([]byte("<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"))
	c.hears("<stream:features")
	g.waitLog("wants TLS of the gateway before it lets anyone log in")
}
