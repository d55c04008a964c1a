package integration

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/sallyport/sallyport/upgraders/all"
)

// mariadbd starts a server with users of each kind. It runs as the user that
// Debian's package makes.
func mariadbd(name string, options ...string) (addr string, err error) {
	dir := filepath.Join(lab.dir, name)
	data := filepath.Join(dir, "data")
	as := []string{"setpriv", "--reuid=mysql", "--regid=mysql", "--init-groups"}
	users := filepath.Join(dir, "users.sql")
	for _, argv := range [][]string{
		{"install", "-d", "-o", "mysql", "-m", "0700", dir},
		append(as, "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal",
			"--skip-test-db", "--skip-name-resolve"),
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = "/"
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", argv[0], err, out)
		}
	}
	if err := os.WriteFile(users, fmt.Appendf(nil, `
CREATE DATABASE d1;
CREATE USER 'u1'@'%%' IDENTIFIED BY '%[1]s';
GRANT ALL ON *.* TO 'u1'@'%%';
CREATE USER 'tlsonly'@'%%' IDENTIFIED BY '%[1]s' REQUIRE SSL;
CREATE USER 'ed'@'%%' IDENTIFIED VIA ed25519 USING PASSWORD('%[1]s');
`, password), 0o644); err != nil {
		return "", err
	}
	addr = address()
	_, port, _ := net.SplitHostPort(addr)
	d, err := start(append(append(as, "mariadbd", "--no-defaults", "--datadir="+data, "--tmpdir="+dir, "--port="+port, "--bind-address=127.0.0.1",
		"--socket="+filepath.Join(dir, "socket"), "--pid-file="+filepath.Join(dir, "pid"), "--init-file="+users,
		"--plugin-load-add=auth_ed25519", "--max-allowed-packet=128M", "--local-infile=1", "--max-connect-errors=5",
		"--innodb-flush-log-at-trx-commit=0", "--log-warnings=2"), options...)...)
	if err != nil {
		return "", err
	}
	if err := keep(d); err != nil {
		return "", err
	}
	return addr, reachable(d, addr)
}

// theMariaDB has TLS off, and takes PROXY headers from the gateway.
var theMariaDB = sync.OnceValues(func() (string, error) {
	return mariadbd("mariadb", "--skip-ssl", "--skip-name-resolve", "--proxy-protocol-networks=127.0.0.1")
})

// theFarMariaDB has TLS, and counts who breaks off before the login.
var theFarMariaDB = sync.OnceValues(func() (string, error) {
	pki, err := innerPKI()
	if err != nil {
		return "", err
	}
	for _, file := range []string{"store.crt", "store.key"} {
		to := filepath.Join(lab.dir, "mariadb-"+file)
		if out, err := exec.Command("install", "-o", "mysql", "-m", "0600", pki.file(file), to).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return mariadbd("mariadb-far", "--proxy-protocol-networks=127.0.0.1",
		"--ssl-cert="+filepath.Join(lab.dir, "mariadb-store.crt"), "--ssl-key="+filepath.Join(lab.dir, "mariadb-store.key"))
})

func mariaServer(t *testing.T, the func() (string, error)) string {
	t.Helper()
	root(t)
	need(t, "mariadbd", "mariadb")
	addr, err := the()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// sqlGateway is a gateway before a server, in each way to begin.
func sqlGateway(t *testing.T, addr, backend string) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener "mysql" "db" {
  address = [{{listen "db"}}]
  mode    = "starttls"
  backend = backend.db
}
listener "mysql" "open" {
  address   = [{{listen "open"}}]
  mode      = "starttls"
  cleartext = "allow"
  backend   = backend.db
}
listener "mysql" "begins" {
  address = [{{listen "begins"}}]
  mode    = "implicit"
  backend = backend.db
}
backend "db" {
  servers = [%q]
  %s
}
`, addr, backend))
}

// mariadbClient runs SQL with MariaDB's own client.
func mariadbClient(t *testing.T, port, user, sql string, options ...string) result {
	t.Helper()
	argv := append([]string{"mariadb", "--no-defaults", "-h", "localhost", "--protocol=tcp", "-P", port, "-u", user, "-p" + password, "-N", "-B", "-e", sql}, options...)
	return client(t, "", argv...)
}

func verified() []string {
	return []string{"--ssl", "--ssl-ca=" + lab.pki.ca, "--ssl-verify-server-cert"}
}

// A driver is go-sql-driver/mysql, as an application would set it up.
type driver struct {
	addr, from, user, password string
	tls                        *tls.Config
	implicit                   bool
	set                        func(*mysql.Config)
}

func (d driver) open(t *testing.T) *sql.DB {
	t.Helper()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd = "tcp", d.addr, d.user, d.password
	c.Timeout, c.ReadTimeout, c.WriteTimeout = patience, time.Minute, time.Minute
	c.Logger = &mysql.NopLogger{}
	c.AllowNativePasswords = true
	if !d.implicit {
		c.TLS = d.tls
	}
	c.DialFunc = func(ctx context.Context, _, addr string) (net.Conn, error) {
		var dialer net.Dialer
		if d.from != "" {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(d.from)}
		}
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil && d.implicit {
			conn = tls.Client(conn, d.tls)
		}
		return conn, err
	}
	if d.set != nil {
		d.set(c)
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// asks opens, asks for one text, and closes. The driver takes a zero at the end
// of a nonce for a terminator; one nonce of ed25519's in 256 ends so, and is then
// too short for it, with or without a gateway.
func (d driver) asks(t *testing.T, query string, args ...any) (answer string, err error) {
	t.Helper()
	for range 5 {
		db := d.open(t)
		defer db.Close()
		if err = db.QueryRow(query, args...).Scan(&answer); !errors.Is(err, mysql.ErrMalformPkt) {
			break
		}
	}
	return answer, err
}

// Every client gets its TLS, verified, and its login, by whichever plugin; the
// server's leg is cleartext, and the log says what the client's was. Control:
// without TLS there is no session, and the error is the server's own for that.
func TestMySQLClients(t *testing.T) {
	t.Parallel()
	g := sqlGateway(t, mariaServer(t, theMariaDB), "")
	const query = "select 6*7, (select variable_value from information_schema.session_status where variable_name = 'Ssl_cipher')"
	for _, user := range []string{"u1", "ed"} {
		for _, more := range [][]string{nil, {"--compress"}} {
			mariadbClient(t, g.port("db"), user, query, append(verified(), more...)...).ok(t).says(t, "42\t\n")
		}
	}
	line := g.session("db")
	line.is(t, "security", "encrypted", "protocol", "mysql", "tls_version", "TLSv1.3")
	line.ended(t)
	mariadbClient(t, g.port("db"), "u1", "select 1", "--skip-ssl").exited(t, 1).says(t, "ERROR 3159 (HY000)", "TLS is required")
	g.waitLog(`"listener":"db".*"security":"cleartext","outcome":"rejected","reason":"tls_required"`)
	client(t, "", append([]string{"mariadb", "--no-defaults", "-h", "localhost", "--protocol=tcp", "-P", g.port("db"), "-u", "u1", "-pwrong", "-e", "select 1"}, verified()...)...).
		exited(t, 1).says(t, "ERROR 1045 (28000): Access denied for user 'u1'@'")

	if exec.Command("/usr/bin/python3", "-c", "import pymysql").Run() != nil {
		lacking(t, "/usr/bin/python3 has no pymysql: apt-get install python3-pymysql")
	}
	client(t, "", "/usr/bin/python3", "-c", `
import pymysql, sys
c = pymysql.connect(host='localhost', port=int(sys.argv[1]), user='u1', password=sys.argv[2], ssl={'ca': sys.argv[3]}, ssl_verify_identity=True)
with c.cursor() as s:
    s.execute('select 6*7')
    print(s.fetchone())
c.close()
`, g.port("db"), password, lab.pki.ca).ok(t).says(t, "(42,)")

	for _, user := range []string{"u1", "ed"} {
		d := driver{addr: g.addr("db"), user: user, password: password, tls: lab.pki.client("localhost")}
		if answer, err := d.asks(t, "select 6*7"); err != nil || answer != "42" {
			t.Errorf("%s: %q, %v", user, answer, err)
		}
	}
}

// RFC 7435: where cleartext is allowed a client without TLS works, and is
// labelled as what it is; where TLS comes first, so does one that knows nothing
// of that.
func TestMySQLOtherWays(t *testing.T) {
	t.Parallel()
	g := sqlGateway(t, mariaServer(t, theMariaDB), "")
	mariadbClient(t, g.port("open"), "ed", "select 6*7", "--skip-ssl").ok(t).says(t, "42")
	g.session("open").is(t, "security", "cleartext", "outcome", "ok")
	mariadbClient(t, g.port("open"), "u1", "select 6*7", verified()...).ok(t).says(t, "42")
	g.waitLog(`"listener":"open".*"security":"encrypted"`)
	d := driver{addr: g.addr("begins"), user: "ed", password: password, tls: lab.pki.client("localhost"), implicit: true}
	if answer, err := d.asks(t, "select 6*7"); err != nil || answer != "42" {
		t.Errorf("%q, %v", answer, err)
	}
	g.session("begins").is(t, "security", "encrypted")
}

// openssl asks as clients do, and so does the gateway's own probe; the
// ClientHello may be in one segment with the request.
func TestMySQLOpenSSL(t *testing.T) {
	t.Parallel()
	g := sqlGateway(t, mariaServer(t, theMariaDB), "")
	client(t, "", "openssl", "s_client", "-starttls", "mysql", "-connect", g.addr("db"), "-CAfile", lab.pki.ca,
		"-verify_return_error", "-verify_hostname", "localhost", "-brief").ok(t).says(t, "CONNECTION ESTABLISHED", "Verification: OK")
	client(t, "", lab.binary, "probe", "mysql://localhost:"+g.port("db"), "--cacert", lab.pki.ca).ok(t).says(t, "asked with SSLRequest")

	p := dial(t, "", g.addr("db"))
	greeting := make([]byte, 4)
	p.conn.SetDeadline(time.Now().Add(patience))
	if _, err := p.r.Read(greeting); err != nil {
		t.Fatal(err)
	}
	if _, err := p.r.Discard(int(greeting[0])); err != nil {
		t.Fatal(err)
	}
	request := append([]byte{32, 0, 0, 1, 0, 0x8a, 0x08, 0}, make([]byte, 28)...)
	request[5] |= 0x02 // PROTOCOL_41
	c := tls.Client(&glued{Conn: p.conn, head: request}, lab.pki.client("localhost"))
	if err := c.Handshake(); err != nil {
		t.Errorf("a ClientHello in the segment of the request: %v", err)
	}
}

// A glued conn writes its head together with what is written first.
type glued struct {
	net.Conn
	head []byte
}

func (g *glued) Write(b []byte) (int, error) {
	head := g.head
	g.head = nil
	n, err := g.Conn.Write(append(head, b...))
	return max(0, n-len(head)), err
}

// A value of 60 MiB passes both ways as it is, and so do a file that the server
// asks of the client and the compressed protocol.
func TestMySQLBulk(t *testing.T) {
	t.Parallel()
	g := sqlGateway(t, mariaServer(t, theMariaDB), "")
	big := make([]byte, 60<<20)
	rand.Read(big)
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		value := big
		if compress {
			value = bytes.Repeat([]byte("sallyport "), 4<<20/10)
		}
		d := driver{addr: g.addr("db"), user: "u1", password: password, tls: lab.pki.client("localhost"), set: func(c *mysql.Config) {
			c.MaxAllowedPacket = 128 << 20
			c.Apply(mysql.EnableCompression(compress))
		}}
		db := d.open(t)
		var sum string
		var back []byte
		if err := db.QueryRow("select md5(?), ?", value, value[:len(value)/2]).Scan(&sum, &back); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if sum != fmt.Sprintf("%x", md5.Sum(value)) || !bytes.Equal(back, value[:len(value)/2]) {
			t.Errorf("%s: the value came otherwise than it was sent", name)
		}
		if err := db.QueryRow("select cast(? as binary)", value).Scan(&back); err != nil || !bytes.Equal(back, value) {
			t.Errorf("%s: the value came back otherwise than it was sent: %v", name, err)
		}
	}

	file := filepath.Join(lab.home, "numbers.txt")
	var text strings.Builder
	for i := range 100000 {
		fmt.Fprintln(&text, i)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	mariadbClient(t, g.port("db"), "u1", "create temporary table d1.numbers (n int); load data local infile '"+file+"' into table d1.numbers; select count(*), sum(n) from d1.numbers",
		append(verified(), "--local-infile=1")...).ok(t).says(t, "100000\t4999950000")
}

// A client that comes by the gateway has its own address at the server, though
// the PROXY header was sent before its TLS.
func TestMySQLClientFacts(t *testing.T) {
	t.Parallel()
	addr := mariaServer(t, theMariaDB)
	for _, send := range []string{"proxy-v1", "proxy-v2", "none"} {
		g := sqlGateway(t, addr, fmt.Sprintf("send = %q", send))
		for _, listener := range []string{"db", "begins"} {
			from := loopback()
			want := "u1@" + from
			if send == "none" {
				want = "u1@127.0.0.1"
			}
			d := driver{addr: g.addr(listener), from: from, user: "u1", password: password, tls: lab.pki.client("localhost"), implicit: listener == "begins"}
			if got, err := d.asks(t, "select user()"); err != nil || got != want {
				t.Errorf("%s, %s: the server sees %q, %v; want %q", send, listener, got, err, want)
			}
			g.session(from).is(t, "security", "encrypted", "backend", addr)
		}
	}
}

// Who connects and leaves before the login is counted by the server, and in the
// end locked out: the client, and not the gateway, where the server is told who
// it is. A probe is not counted.
func TestMySQLConnectErrors(t *testing.T) {
	t.Parallel()
	theInnerPKI(t)
	addr := mariaServer(t, theFarMariaDB)
	g := sqlGateway(t, addr, `send = "proxy-v2"`)
	scanner, honest, prober := loopback(), loopback(), loopback()
	ask := func(from string) error {
		d := driver{addr: g.addr("db"), from: from, user: "u1", password: password, tls: lab.pki.client("localhost")}
		_, err := d.asks(t, "select 1")
		return err
	}
	if err := ask(honest); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		p := dial(t, scanner, g.addr("db"))
		p.conn.SetReadDeadline(time.Now().Add(patience))
		p.r.Peek(1)
		p.conn.Close()
	}
	blocked := func() bool {
		var refused *mysql.MySQLError
		return errors.As(ask(scanner), &refused) && refused.Number == 1129
	}
	if !eventually(patience, blocked) {
		t.Errorf("the scanner is not locked out: %v", ask(scanner))
	}
	if err := ask(honest); err != nil {
		t.Errorf("somebody else is: %v", err)
	}
	for range 10 {
		conn := dial(t, prober, addr).conn
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := all.Lookup("mysql").AskOffer(t.Context(), conn, "gw.example.org"); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	// Control: what a probe would be that hung up on the greeting.
	for range 10 {
		conn := dial(t, prober, addr)
		conn.conn.SetReadDeadline(time.Now().Add(patience))
		conn.r.Peek(1)
		conn.conn.Close()
	}
	if !eventually(patience, func() bool {
		conn := dial(t, prober, addr).conn
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		_, err := all.Lookup("mysql").AskOffer(t.Context(), conn, "gw.example.org")
		return err != nil && strings.Contains(err.Error(), "ERR 1129")
	}) {
		t.Error("the control is not locked out")
	}
}

// A server that knows no address but the gateway's hears of a client that has
// left, or was turned away, as of one that was refused, which it does not
// count.
func TestMySQLLeave(t *testing.T) {
	t.Parallel()
	g := sqlGateway(t, mariaServer(t, theMariaDB), "")
	d := driver{addr: g.addr("open"), user: "u1", password: password}
	denied := func() (n int) {
		answer, err := d.asks(t, "select variable_value from information_schema.global_status where variable_name = 'Access_denied_errors'")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Sscan(answer, &n)
		return n
	}
	before := denied()
	for range 5 {
		p := dial(t, "", g.addr("db"))
		p.conn.SetReadDeadline(time.Now().Add(patience))
		p.r.Peek(1)
		p.conn.Close()
		p = dial(t, "", g.addr("db"))
		p.conn.SetReadDeadline(time.Now().Add(patience))
		p.r.Peek(1)
		p.write([]byte("no login"))
		p.rest()
	}
	if !eventually(patience, func() bool { return denied() >= before+10 }) {
		t.Errorf("%d logins were refused; want 10 more than %d", denied(), before)
	}
}

// The leg to the server is TLS where that is asked for, which an account that
// requires it shows, in each way that a client can come; a certificate that
// does not verify ends it, in the protocol's words.
func TestMySQLBackendTLS(t *testing.T) {
	t.Parallel()
	inner := theInnerPKI(t)
	addr := mariaServer(t, theFarMariaDB)
	far := func(settings string) *gateway {
		return sqlGateway(t, addr, "tls {\n    mode = \"starttls\"\n    "+settings+"\n  }")
	}
	good := fmt.Sprintf("ca_file = %q\n    server_name = %q", inner.ca, innerName)
	g := far(good)
	for _, listener := range []string{"db", "open", "begins"} {
		d := driver{addr: g.addr(listener), user: "tlsonly", password: password, implicit: listener == "begins"}
		if listener != "open" {
			d.tls = lab.pki.client("localhost")
		}
		for _, user := range []string{"tlsonly", "ed"} {
			d.user = user
			if answer, err := d.asks(t, "select variable_value <> '' from information_schema.session_status where variable_name = 'Ssl_cipher'"); err != nil || answer != "1" {
				t.Errorf("%s, %s: %q, %v", listener, user, answer, err)
			}
		}
		g.session(listener).is(t, "backend", addr)
	}
	// Control: without it that account cannot be had.
	d := driver{addr: sqlGateway(t, addr, "").addr("db"), user: "tlsonly", password: password, tls: lab.pki.client("localhost")}
	if _, err := d.asks(t, "select 1"); err == nil {
		t.Error("the account does not require TLS")
	}

	g = far(fmt.Sprintf("ca_file = %q\n    server_name = \"other.example.org\"", inner.ca))
	d.addr = g.addr("db")
	var refused *mysql.MySQLError
	if _, err := d.asks(t, "select 1"); !errors.As(err, &refused) || refused.Number != 1105 || strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of another name: %v", err)
	}
	line := g.session("db")
	line.is(t, "outcome", "backend_down")
	if !strings.Contains(line.field("error"), "certificate") {
		t.Errorf("the log does not name the cause: %v", line)
	}
	// A server that does not offer it is never spoken to in clear instead.
	g = sqlGateway(t, mariaServer(t, theMariaDB), "tls {\n    mode = \"starttls\"\n    "+good+"\n  }")
	d.addr = g.addr("db")
	if _, err := d.asks(t, "select 1"); !errors.As(err, &refused) || refused.Number != 1105 {
		t.Errorf("a server without TLS: %v", err)
	}
	line = g.session("db")
	line.is(t, "outcome", "backend_down")
	if !strings.Contains(line.field("error"), "not offered") {
		t.Errorf("the log does not name the cause: %v", line)
	}
}

// A server that is down is told in place of the greeting, without its address.
func TestMySQLDown(t *testing.T) {
	t.Parallel()
	need(t, "mariadb")
	nowhere := address()
	g := sqlGateway(t, nowhere, "")
	mariadbClient(t, g.port("db"), "u1", "select 1", verified()...).exited(t, 1).says(t, "1105", "not available; try again later").silentOf(t, nowhere)
	g.session("db").is(t, "outcome", "backend_down")
}

// check --live finds that root needs no password from the gateway's address,
// as after an installation, and that a client's own address changes that.
func TestLiveMySQL(t *testing.T) {
	t.Parallel()
	theInnerPKI(t)
	addr, far := mariaServer(t, theMariaDB), mariaServer(t, theFarMariaDB)
	hcl := func(addr, backend string) string {
		return fmt.Sprintf("listener \"mysql\" \"db\" {\n  address = [{{listen \"db\"}}]\n  mode = \"starttls\"\n  backend = backend.db\n}\nbackend \"db\" {\n  servers = [%q]\n  %s\n}\n", addr, backend)
	}
	found(t, live(t, hcl(addr, ""), 1), "lets a client from the gateway's address in as root, without a password")
	found(t, live(t, hcl(addr, `send = "proxy-v2"`), 0))
	found(t, live(t, hcl(far, fmt.Sprintf("send = \"proxy-v2\"\n  tls {\n    mode = \"starttls\"\n    ca_file = %q\n    server_name = %q\n  }", theInnerPKI(t).ca, innerName)), 0))
	found(t, live(t, hcl(address(), ""), 1), "cannot be reached")
}
