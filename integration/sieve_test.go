package integration

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A cabinet is a Dovecot of ManageSieve. It has TLS of its own, and offers it
// in cleartext as well, so that there is something to take out. It knows every
// user by the common password.
type cabinet struct {
	*daemon
	dir   string
	log   logFile
	addrs map[string]string // by the name of the inet_listener
	users atomic.Int32
}

const cabinetConf = `protocols = sieve
base_dir = %[1]s/run
log_path = %[1]s/log
state_dir = %[1]s/run
listen = 127.0.0.1
ssl = yes
ssl_cert = <%[2]s
ssl_key = <%[3]s
disable_plaintext_auth = no
auth_mechanisms = plain login scram-sha-256
auth_verbose = yes
login_trusted_networks = %[4]s/32
haproxy_trusted_networks = %[4]s/32
mail_location = maildir:%[1]s/mail/%%u
mail_max_userip_connections = 1000
first_valid_uid = 1
passdb {
  driver = static
  args = password=%[5]s
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=%[1]s/mail/%%u
}
plugin {
  sieve = file:%[1]s/mail/%%u/sieve;active=%[1]s/mail/%%u/active
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
service managesieve-login {
  inet_listener sieve {
    port = %[6]d
  }
  inet_listener sieve_proxied {
    port = %[7]d
    haproxy = yes
  }
}
`

var openCabinet = sync.OnceValues(func() (*cabinet, error) {
	if err := dovecot23(); err != nil {
		return nil, err
	}
	inner, err := innerPKI()
	if err != nil {
		return nil, err
	}
	nobody, nogroup, err := ids("nobody")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(lab.dir, "cabinet")
	plain, proxied := freePort(), freePort()
	s := &cabinet{dir: dir, log: logFile(filepath.Join(dir, "log")), addrs: map[string]string{
		"sieve":         net.JoinHostPort("127.0.0.1", strconv.Itoa(plain)),
		"sieve_proxied": net.JoinHostPort("127.0.0.1", strconv.Itoa(proxied)),
	}}
	conf := filepath.Join(dir, "dovecot.conf")
	text := fmt.Sprintf(cabinetConf, dir, inner.file("store.crt"), inner.file("store.key"), gatewayAddr, password, plain, proxied)
	if err := errors.Join(
		mkdirs(dir, 0, 0, "run"),
		mkdirs(dir, nobody, nogroup, "mail"),
		os.WriteFile(conf, []byte(text), 0o644),
	); err != nil {
		return nil, err
	}
	if s.daemon, err = start("dovecot", "-F", "-c", conf); err != nil {
		return nil, err
	}
	return s, errors.Join(keep(s.daemon), reachable(s.daemon, s.addrs["sieve"]))
})

// theCabinet is shared; it starts when first asked for.
func theCabinet(t *testing.T) *cabinet {
	t.Helper()
	need(t, "dovecot")
	root(t)
	if _, err := os.Stat("/usr/lib/dovecot/managesieve-login"); err != nil {
		lacking(t, "managesieve-login is not installed: apt-get install dovecot-managesieved")
	}
	s, err := openCabinet()
	if errors.Is(err, errDovecot24) {
		lacking(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// user returns one that nobody else has.
func (s *cabinet) user() string { return fmt.Sprintf("v%d", s.users.Add(1)) }

// script returns what a user has stored under a name.
func (s *cabinet) script(user, name string) string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "mail", user, "sieve", name+".sieve"))
	return string(text)
}

// scriptsBy is a gateway before a backend of ManageSieve: STARTTLS and implicit.
func scriptsBy(backend string) string {
	return `
listener "sieve" "sieve" {
  address  = [{{listen "sieve"}}]
  mode     = "starttls"
  hostname = "gw.example.org"
  backend  = backend.sieve
}
listener "sieve" "sieves" {
  address  = [{{listen "sieves"}}]
  mode     = "implicit"
  hostname = "gw.example.org"
  backend  = backend.sieve
}
backend "sieve" {
  ` + backend + `
}
`
}

// scripts is the usual one.
func scripts(s *cabinet) string { return scriptsBy(fmt.Sprintf("servers = [%q]", s.addrs["sieve"])) }

// list reads the lines of a response up to its status, which must begin so.
func (p *peer) list(status string) []string {
	p.t.Helper()
	var lines []string
	for {
		line := p.line()
		if !strings.HasPrefix(line, `"`) {
			if !strings.HasPrefix(line, status) {
				p.t.Fatalf("got %q after %q, want %s", line, lines, status)
			}
			return lines
		}
		lines = append(lines, line)
	}
}

// sieve sends a command and reads its response.
func (p *peer) sieve(status, format string, args ...any) []string {
	p.t.Helper()
	p.send(format, args...)
	return p.list(status)
}

// sieveLogin is a command with the password as a literal, which is how long
// ones are sent.
func sieveLogin(user string) string {
	secret := plain(user)
	return fmt.Sprintf("AUTHENTICATE \"PLAIN\" {%d+}\r\n%s", len(secret), secret)
}

// plain is the initial response of SASL's PLAIN.
func plain(user string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// lists reports whether one of the lines begins with a capability.
func lists(lines []string, capability string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, `"`+capability+`"`) })
}

const sieveScript = "require \"fileinto\";\r\n# STARTTLS {3+}\r\nif header :contains \"Subject\" \"list\" { fileinto \"lists\"; }\r\n"

// Clients upload a script and list it over STARTTLS and implicit TLS, and it is
// stored byte for byte. Control: the same clients against Dovecot itself, whose
// certificate they do not know, store nothing.
func TestScriptClients(t *testing.T) {
	t.Parallel()
	s := theCabinet(t)
	gw := serve(t, scripts(s))
	_, direct, _ := strings.Cut(s.addrs["sieve"], ":")
	typed := func(user string) string {
		return fmt.Sprintf("NOOP\r\n%s\r\nPUTSCRIPT \"mine\" {%d+}\r\n%s\r\nLISTSCRIPTS\r\nLOGOUT\r\n", sieveLogin(user), len(sieveScript), sieveScript)
	}
	connect := func(t *testing.T, port, user string, what ...string) []string {
		dir := clientDir(t, "sieve-connect")
		local := filepath.Join(dir, "mine")
		if err := os.WriteFile(local, []byte(sieveScript), 0o600); err != nil {
			t.Fatal(err)
		}
		run := `"$@" --upload --localsieve "$0" --remotesieve mine 3<<<` + password + ` && "$@" --list 3<<<` + password
		return append([]string{"bash", "-c", run, local, "sieve-connect", "--server", "localhost", "--port", port, "--4",
			"--user", user, "--passwordfd", "3", "--tlscafile", lab.pki.ca, "--debug"}, what...)
	}
	for _, c := range []reader{
		{name: "sieve-connect", argv: func(t *testing.T, port, user string) []string { return connect(t, port, user, "--noclearchan") }},
		{name: "openssl", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-starttls", "sieve", "-quiet", "-verify_quiet")
		}},
		{name: "openssl-implicit", implicit: true, stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return sclient("127.0.0.1:"+port, lab.pki.ca, "-quiet", "-verify_quiet")
		}},
		{name: "gnutls-cli", stdin: typed, argv: func(_ *testing.T, port, _ string) []string {
			return []string{"gnutls-cli", "--x509cafile=" + lab.pki.ca, "-p", port, "--starttls-proto=sieve", "localhost"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			listener := "sieve"
			if c.implicit {
				listener = "sieves"
			}
			store := func(port, user string) result {
				stdin := ""
				if c.stdin != nil {
					stdin = c.stdin(user)
				}
				return client(t, stdin, c.argv(t, port, user)...)
			}
			user := s.user()
			store(gw.port(listener), user).ok(t).says(t, "mine")
			if got := s.script(user, "mine"); got != sieveScript {
				t.Errorf("stored is %q", got)
			}
			gw.session(listener).is(t, "protocol", "sieve", "security", "encrypted")

			user = s.user()
			store(direct, user)
			if got := s.script(user, "mine"); got != "" {
				t.Errorf("control: stored past the gateway: %q", got)
			}
		})
	}
}

// V-01, V-02: before TLS the list is Dovecot's, with STARTTLS and without a
// mechanism; after it comes unasked, fresh, and without what TLS makes false.
// Nothing that needs a login goes before TLS. Control: Dovecot itself lists
// STARTTLS, XCLIENT and mechanisms, and takes the login.
func TestScriptCapabilities(t *testing.T) {
	t.Parallel()
	s := theCabinet(t)
	direct := dial(t, "", s.addrs["sieve"])
	own := direct.list("OK")
	if !lists(own, "STARTTLS") || !lists(own, "XCLIENT") || !slices.Contains(own, `"SASL" "PLAIN LOGIN SCRAM-SHA-256"`) {
		t.Fatalf("control: Dovecot lists %q", own)
	}
	user := s.user()
	direct.sieve("OK", `AUTHENTICATE "PLAIN" "%s"`, plain(user))

	gw := serve(t, scripts(s))
	corrected := func(sasl, starttls string) []string {
		var want []string
		for _, line := range own {
			switch {
			case lists([]string{line}, "STARTTLS"), lists([]string{line}, "XCLIENT"):
			case lists([]string{line}, "SASL"):
				want = append(want, `"SASL" `+sasl)
			default:
				want = append(want, line)
			}
		}
		if starttls != "" {
			want = append(want, starttls)
		}
		return want
	}
	inside := corrected(`"PLAIN LOGIN SCRAM-SHA-256"`, "")
	c := dial(t, loopback(), gw.addr("sieve"))
	before := c.list(`OK "gw.example.org `)
	if want := corrected(`""`, `"STARTTLS"`); !slices.Equal(before, want) {
		t.Errorf("before TLS:\n%q, want\n%q", before, want)
	}
	sneak := "sneak-" + s.user()
	c.sieve("NO (ENCRYPT-NEEDED) ", `AUTHENTICATE "PLAIN" "%s"`, plain(sneak))
	c.sieve("NO (ENCRYPT-NEEDED) ", "LISTSCRIPTS")
	c.sieve("OK (TAG \"here-1\") ", `NOOP "here-1"`)
	c.sieve("OK", "STARTTLS")
	c.tls(lab.pki.client("localhost"))
	if got := c.list("OK"); !slices.Equal(got, inside) {
		t.Errorf("after TLS:\n%q, want\n%q", got, inside)
	}
	if got := c.sieve("OK", "CAPABILITY"); !slices.Equal(got, inside) {
		t.Errorf("CAPABILITY:\n%q, want\n%q", got, inside)
	}
	c.sieve("NO", "STARTTLS")
	c.sieve("NO", "XCLIENT ADDR=192.0.2.97 PORT=4711")
	c.sieve("OK", `AUTHENTICATE "PLAIN" "%s"`, plain(user))
	c.sieve("OK", "LOGOUT")
	c.clean()

	c = dialTLS(t, loopback(), gw.addr("sieves"), lab.pki.client("localhost"))
	if got := c.list("OK"); !slices.Equal(got, inside) {
		t.Errorf("implicit:\n%q, want\n%q", got, inside)
	}
	// A password in a literal before TLS ends the session.
	c = dial(t, loopback(), gw.addr("sieve"))
	c.list("OK")
	c.send("%s", sieveLogin(sneak))
	c.list("NO (ENCRYPT-NEEDED) ")
	c.list("BYE")
	c.closed()
	if lines := s.log.lines("sneak"); lines != nil {
		t.Errorf("Dovecot heard of %q", lines)
	}
}

// V-04: what a SASL exchange says is data, quoted or literal, and so is a
// script: one of many kilobytes that is full of commands and literals arrives
// byte for byte, and comes back so. Control: a changed byte is found.
func TestScriptBytes(t *testing.T) {
	t.Parallel()
	s := theCabinet(t)
	gw := serve(t, scripts(s))
	c := dial(t, loopback(), gw.addr("sieve"))
	c.list("OK")
	c.sieve("OK", "starttls")
	c.tls(lab.pki.client("localhost"))
	c.list("OK")
	user := s.user()
	c.send(`AUTHENTICATE "LOGIN"`)
	c.want(`^"VXNlcm5hbWU6"$|^\{12\}$`)
	if c.r.Buffered() > 0 {
		c.want(`^VXNlcm5hbWU6$`)
	}
	c.sieve("NO", "STARTTLS") // as the user's name, and it is no base64
	c.sieve("NO", "STARTTLS") // as a command
	c.send("%s", sieveLogin(user))
	c.list("OK")

	var text strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&text, "# STARTTLS {%d+}\r\n# OK \"\" {3}\r\n", i)
	}
	script := text.String() + "keep;\r\n"
	c.send("PUTSCRIPT \"big\" {%d+}\r\n%s", len(script), script)
	c.list("OK")
	if d := differ([]byte(s.script(user, "big")), []byte(script)); d != "" {
		t.Error(d)
	}
	c.send("GETSCRIPT \"big\"")
	c.want(fmt.Sprintf(`^\{%d\}$`, len(script)))
	got := make([]byte, len(script))
	if _, err := io.ReadFull(c.r, got); err != nil {
		t.Fatal(err)
	}
	if d := differ(got, []byte(script)); d != "" {
		t.Error(d)
	} else if d := differ(got, []byte(script[:40]+"?"+script[41:])); d == "" {
		t.Error("control: a changed byte was not found")
	}
	c.want("^$")
	c.list("OK")
	c.sieve("OK", "LOGOUT")
	c.clean()
}

// Dovecot logs the client's own address as rip by PROXY v2 and XCLIENT, behind
// STARTTLS and implicit TLS. Controls: without them it logs the gateway's;
// Dovecot itself believes XCLIENT from 127.0.0.1.
func TestScriptKnowsClient(t *testing.T) {
	t.Parallel()
	s := theCabinet(t)
	for _, way := range []struct {
		name, backend string
		told          bool
	}{
		{"none", fmt.Sprintf("servers = [%q]", s.addrs["sieve"]), false},
		{"proxy-v2", fmt.Sprintf("servers = [%q]\n  send = \"proxy-v2\"", s.addrs["sieve_proxied"]), true},
		{"xclient", fmt.Sprintf("servers = [%q]\n  forward { xclient = true }", s.addrs["sieve"]), true},
	} {
		gw := serve(t, scriptsBy(way.backend))
		for _, listener := range []string{"sieve", "sieves"} {
			t.Run(way.name+"/"+listener, func(t *testing.T) {
				from := loopback()
				c := dial(t, from, gw.addr(listener))
				if listener == "sieve" {
					c.list("OK")
					c.sieve("OK", "STARTTLS")
				}
				c.tls(lab.pki.client("localhost"))
				if got := c.list("OK"); lists(got, "XCLIENT") {
					t.Errorf("the client is offered %q", got)
				}
				user := s.user()
				c.sieve("OK", `AUTHENTICATE "PLAIN" "%s"`, plain(user))
				c.sieve("OK", "LOGOUT")
				c.clean()
				sees := gatewayAddr
				if way.told {
					sees = from
				}
				if line := s.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, "rip="+sees+",") {
					t.Errorf("Dovecot logged %s, want rip=%s", line, sees)
				}
			})
		}
	}
	c := dial(t, "", s.addrs["sieve"])
	c.list("OK")
	c.sieve("OK", "XCLIENT ADDR=192.0.2.97 PORT=4711")
	user := s.user()
	c.sieve("OK", `AUTHENTICATE "PLAIN" "%s"`, plain(user))
	if line := s.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, "rip=192.0.2.97") {
		t.Errorf("control: Dovecot does not believe XCLIENT: %s", line)
	}
}

// The gateway asks Dovecot for TLS in ManageSieve's words and verifies it, from
// STARTTLS and implicit TLS; the list that comes inside is the client's.
// Control: with another CA no session is had, and none in cleartext instead.
func TestScriptBackendTLS(t *testing.T) {
	t.Parallel()
	s := theCabinet(t)
	for _, c := range []struct {
		name, ca string
		ok       bool
	}{{"verified", theInnerPKI(t).ca, true}, {"another CA", lab.pki.ca, false}} {
		t.Run(c.name, func(t *testing.T) {
			gw := farGateway(t, "sieve", "starttls", s.addrs["sieve"], fmt.Sprintf("ca_file = %q\n    server_name = %q", c.ca, innerName))
			for _, listener := range []string{"asks", "begins"} {
				p := dial(t, loopback(), gw.addr(listener))
				if listener == "asks" {
					p.list("OK")
					p.sieve("OK", "STARTTLS")
				}
				p.tls(lab.pki.client("localhost"))
				if !c.ok {
					p.list("BYE (TRYLATER) ")
					p.clean()
					continue
				}
				if got := p.list("OK"); lists(got, "STARTTLS") || !lists(got, "SASL") {
					t.Errorf("%s: %q", listener, got)
				}
				user := s.user()
				p.sieve("OK", `AUTHENTICATE "PLAIN" "%s"`, plain(user))
				p.sieve("OK", "LOGOUT")
				p.clean()
				if line := s.log.wait(t, "Login: user=<"+user+">"); !strings.Contains(line, ", TLS") {
					t.Errorf("Dovecot logged %s", line)
				}
			}
		})
	}
}

// G-06, G-14: where cleartext is allowed, a session works without TLS, and is
// never upgraded once it is joined; with cleartext_auth = false it cannot log
// in. Control: the same login goes where passwords are allowed.
func TestScriptsInCleartext(t *testing.T) {
	t.Parallel()
	s := theCabinet(t)
	allowed := strings.Replace(scripts(s), `mode     = "starttls"`, "mode      = \"starttls\"\n  cleartext = \"allow\"", 1)
	gw := serve(t, allowed)
	c := dial(t, loopback(), gw.addr("sieve"))
	if got := c.list("OK"); !lists(got, "STARTTLS") || !slices.Contains(got, `"SASL" "PLAIN LOGIN SCRAM-SHA-256"`) {
		t.Errorf("before the join: %q", got)
	}
	c.sieve("NO", "LISTSCRIPTS")
	c.sieve("NO", "STARTTLS")
	if got := c.sieve("OK", "CAPABILITY"); lists(got, "STARTTLS") {
		t.Errorf("after the join: %q", got)
	}
	user := s.user()
	c.send("%s", sieveLogin(user))
	c.list("OK")
	c.sieve("OK", "LISTSCRIPTS")
	c.sieve("OK", "LOGOUT")
	c.closed()

	gw = serve(t, strings.Replace(allowed, `"allow"`, "\"allow\"\n  cleartext_auth = false", 1))
	c = dial(t, loopback(), gw.addr("sieve"))
	c.list("OK")
	user = s.user()
	c.sieve("NO (ENCRYPT-NEEDED) ", `AUTHENTICATE "PLAIN" "%s"`, plain(user))
	c.sieve("NO", "LISTSCRIPTS")
	c.send("%s", sieveLogin(user))
	c.list("NO (ENCRYPT-NEEDED) ")
	c.sieve("OK", "LOGOUT")
	if lines := s.log.lines("user=<" + user + ">"); lines != nil {
		t.Errorf("Dovecot logged %q", lines)
	}
}
