package integration

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// thePostgres is a server with TLS off, that wants SCRAM of everybody.
var thePostgres = sync.OnceValues(func() (string, error) { return startPostgres("postgres") })

// startPostgres runs a server as the user that Debian's package makes, with
// settings as postgres -c takes them.
func startPostgres(name string, settings ...string) (addr string, err error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return "", fmt.Errorf("no PostgreSQL: apt-get install postgresql")
	}
	bin := bins[len(bins)-1]
	dir := filepath.Join(lab.dir, name)
	pw := filepath.Join(lab.dir, name+"-password")
	if err := os.WriteFile(pw, []byte(password+"\n"), 0o644); err != nil {
		return "", err
	}
	as := []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"}
	if out, err := exec.Command("install", "-d", "-o", "postgres", "-m", "0700", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	init := exec.Command(as[0], append(as[1:], filepath.Join(bin, "initdb"), "-D", dir, "-U", "u1", "-A", "scram-sha-256", "--pwfile", pw, "-E", "UTF8", "--no-sync")...)
	init.Dir = "/"
	if out, err := init.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	for _, file := range []string{"localhost.crt", "localhost.key"} { // for settings that want them
		if out, err := exec.Command("install", "-o", "postgres", "-m", "0600", lab.pki.file(file), dir).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	addr = address()
	_, port, _ := net.SplitHostPort(addr)
	argv := append(as, filepath.Join(bin, "postgres"), "-D", dir, "-p", port)
	for _, setting := range append([]string{"listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "log_connections=on"}, settings...) {
		argv = append(argv, "-c", setting)
	}
	d, err := start(argv...)
	if err != nil {
		return "", err
	}
	if err := keep(d); err != nil {
		return "", err
	}
	return addr, reachable(d, addr)
}

func postgresServer(t *testing.T) string {
	t.Helper()
	root(t)
	need(t, "psql")
	addr, err := thePostgres()
	if err != nil {
		lacking(t, "%v", err)
	}
	return addr
}

// database is a gateway before a server of PostgreSQL.
func database(t *testing.T, addr, more string) *gateway {
	t.Helper()
	return serve(t, fmt.Sprintf(`
listener "postgres" "db" {
  address = [{{listen "db"}}]
  mode    = "starttls"
  backend = backend.db
  %s
}
backend "db" { servers = [%q] }
`, more, addr))
}

// psql runs SQL; options are those of libpq.
func psql(t *testing.T, port, options, stdin string, argv ...string) result {
	t.Helper()
	dsn := fmt.Sprintf("host=localhost port=%s user=u1 password=%s dbname=postgres connect_timeout=20 sslrootcert=%s %s", port, password, lab.pki.ca, options)
	return client(t, stdin, append([]string{"psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", dsn}, argv...)...)
}

// Every way in which libpq asks for TLS gets it, verified and with SCRAM; the
// server's leg is cleartext, and the log says what the client's was. Control:
// without TLS there is no session.
func TestPostgresClients(t *testing.T) {
	t.Parallel()
	g := database(t, postgresServer(t), "")
	for _, options := range []string{
		"sslmode=verify-full", "sslmode=require", "sslmode=prefer", "sslmode=verify-full gssencmode=prefer", "sslmode=verify-full application_name=x options='-c search_path=public'",
	} {
		psql(t, g.port("db"), options, "", "-c", "select 6*7, (select ssl from pg_stat_ssl where pid = pg_backend_pid())").ok(t).says(t, "42|f")
	}
	g.session("127.0.0.1").is(t, "security", "encrypted", "protocol", "postgres", "outcome", "ok")
	psql(t, g.port("db"), "sslmode=disable", "", "-c", "select 1").exited(t, 2).says(t, "TLS is required")
	// Channel binding ends at the gateway: a client that insists on it fails
	// by itself, and cleanly.
	psql(t, g.port("db"), "sslmode=verify-full channel_binding=require", "", "-c", "select 1").exited(t, 2).says(t, "channel binding")
}

// RFC 7435: where cleartext is allowed, a client without TLS works, and is
// labelled as what it is.
func TestPostgresCleartext(t *testing.T) {
	t.Parallel()
	g := database(t, postgresServer(t), `cleartext = "allow"`)
	psql(t, g.port("db"), "sslmode=disable", "", "-c", "select 6*7").ok(t).says(t, "42")
	g.session("127.0.0.1").is(t, "security", "cleartext", "outcome", "ok")
}

// openssl asks as libpq does, and begins with TLS as libpq 17 can: then ALPN
// must name the protocol.
func TestPostgresOpenSSL(t *testing.T) {
	t.Parallel()
	g := database(t, postgresServer(t), "")
	s := func(more ...string) result {
		return client(t, "", append([]string{"openssl", "s_client", "-connect", g.addr("db"), "-CAfile", lab.pki.ca, "-verify_return_error", "-verify_hostname", "localhost"}, more...)...)
	}
	s("-starttls", "postgres", "-brief").ok(t).says(t, "CONNECTION ESTABLISHED")
	s("-alpn", "postgresql").ok(t).says(t, "ALPN protocol: postgresql")
	if r := s("-alpn", "imap"); r.code == 0 {
		t.Errorf("another protocol's ALPN is taken:\n%s", r.out)
	}
	if r := s("-brief"); r.code == 0 {
		t.Errorf("direct TLS without ALPN is taken:\n%s", r.out)
	}
}

// COPY of 100 MiB passes both ways byte for byte. Control: the digest of the
// server's own answer.
func TestPostgresCopy(t *testing.T) {
	t.Parallel()
	addr := postgresServer(t)
	g := database(t, addr, "")
	const copyOut = "copy (select repeat(md5(i::text), 32) from generate_series(1, 102400) i) to stdout"
	_, direct, _ := net.SplitHostPort(addr)
	want := psql(t, direct, "sslmode=disable", "", "-c", copyOut).ok(t).out
	got := psql(t, g.port("db"), "sslmode=verify-full", "", "-c", copyOut).ok(t).out
	if len(want) < 100<<20 || sha256.Sum256([]byte(got)) != sha256.Sum256([]byte(want)) {
		t.Fatalf("%d bytes came of %d, or others", len(got), len(want))
	}
	psql(t, g.port("db"), "sslmode=verify-full", want, "-c", "create temp table t (s text)", "-c", "copy t from stdin",
		"-c", "select count(*), md5(string_agg(s, '' order by s)) = (select md5(string_agg(x, '' order by x)) from (select repeat(md5(i::text), 32) x from generate_series(1, 102400) i) y) from t").
		ok(t).says(t, "102400|t")
}

// A CancelRequest, which this libpq sends in cleartext, ends the query of the
// session that gave its key; the other session's goes on.
func TestPostgresCancel(t *testing.T) {
	t.Parallel()
	addr := postgresServer(t)
	g := database(t, addr, "")
	dsn := fmt.Sprintf("host=localhost port=%s user=u1 password=%s dbname=postgres sslmode=verify-full sslrootcert=%s", g.port("db"), password, lab.pki.ca)
	query := func(seconds int) *exec.Cmd {
		cmd := exec.Command("psql", "-X", "-At", dsn, "-c", "select 'slept', pg_sleep("+strconv.Itoa(seconds)+")")
		cmd.Env = environment()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	var said strings.Builder
	cancelled, other := query(600), query(5)
	cancelled.Stderr = &said
	if err := cancelled.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancelled.Process.Kill() })
	otherSaid := make(chan string, 1)
	go func() { out, _ := other.CombinedOutput(); otherSaid <- string(out) }()
	if !eventually(20*time.Second, func() bool {
		return strings.Contains(psql(t, g.port("db"), "sslmode=require", "", "-c", "select count(*) from pg_stat_activity where query like 'select ''slept%' and wait_event = 'PgSleep'").out, "2")
	}) {
		t.Fatal("the queries do not run")
	}
	cancelled.Process.Signal(syscall.SIGINT)
	done := make(chan error, 1)
	go func() { done <- cancelled.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the query was not cancelled")
	}
	if !strings.Contains(said.String(), "canceling statement due to user request") {
		t.Errorf("psql said: %s", said.String())
	}
	if out := <-otherSaid; !strings.Contains(out, "slept") {
		t.Errorf("the other session said: %s", out)
	}
}

// A server that is down is told by SQLSTATE, after TLS, without its address.
func TestPostgresDown(t *testing.T) {
	t.Parallel()
	root(t)
	need(t, "psql")
	nowhere := address()
	g := database(t, nowhere, "")
	r := psql(t, g.port("db"), "sslmode=verify-full", "", "-c", "select 1").exited(t, 2).says(t, "not available; try again later")
	r.silentOf(t, nowhere)
}

// pgx begins with TLS as libpq 17 does, or asks for it, and logs in by SCRAM. A
// context that ends has it send a CancelRequest. Control: without TLS there is
// no session.
func TestPostgresPgx(t *testing.T) {
	t.Parallel()
	g := database(t, postgresServer(t), "")
	connect := func(options string) (*pgx.Conn, error) {
		dsn := fmt.Sprintf("host=localhost port=%s user=u1 password=%s dbname=postgres sslrootcert=%s %s", g.port("db"), password, lab.pki.ca, options)
		return pgx.Connect(t.Context(), dsn)
	}
	for _, options := range []string{"sslmode=verify-full sslnegotiation=direct", "sslmode=verify-full sslnegotiation=postgres"} {
		c, err := connect(options)
		if err != nil {
			t.Fatalf("%s: %v", options, err)
		}
		defer c.Close(t.Context())
		var n int
		if err := c.QueryRow(t.Context(), "select $1::int * 7", 6).Scan(&n); err != nil || n != 42 {
			t.Errorf("%s: %d, %v", options, n, err)
		}
		cs := c.PgConn().Conn().(*tls.Conn).ConnectionState()
		if cs.Version != tls.VersionTLS13 || strings.Contains(options, "direct") != (cs.NegotiatedProtocol == "postgresql") {
			t.Errorf("%s: %s, ALPN %q", options, tls.VersionName(cs.Version), cs.NegotiatedProtocol)
		}
		if err := c.PgConn().CancelRequest(t.Context()); err != nil { // inside TLS, as the session came
			t.Errorf("%s: CancelRequest: %v", options, err)
		}
	}
	c, err := connect("sslmode=verify-full sslnegotiation=direct")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	slept := make(chan error, 1)
	go func() { _, err := c.Exec(t.Context(), "select pg_sleep(600) /* pgx */"); slept <- err }()
	if !eventually(20*time.Second, func() bool {
		return strings.HasPrefix(psql(t, g.port("db"), "sslmode=require", "", "-c", "select count(*) from pg_stat_activity where query like '%/* pgx */' and wait_event = 'PgSleep'").out, "1")
	}) {
		t.Fatal("the query does not run")
	}
	if err := c.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-slept; err == nil || !strings.Contains(err.Error(), "57014") {
		t.Errorf("the query that was cancelled ended with %v", err)
	}
	if _, err := connect("sslmode=disable"); err == nil || !strings.Contains(err.Error(), "28000") {
		t.Errorf("without TLS: %v", err)
	}
}

// RFC 5802, 6: over backend TLS the server offers SCRAM-SHA-256-PLUS, which the
// gateway removes; the client says that it could have bound and was not asked to,
// and the server takes that for an attack. The login fails, and cleanly; a client
// that is told not to bind gets in. Control: straight to the server it binds.
func TestPostgresChannelBinding(t *testing.T) {
	t.Parallel()
	root(t)
	need(t, "psql")
	addr, err := startPostgres("postgres-tls", "ssl=on", "ssl_cert_file=localhost.crt", "ssl_key_file=localhost.key")
	if err != nil {
		lacking(t, "%v", err)
	}
	g := serve(t, fmt.Sprintf(`
listener "postgres" "db" {
  address = [{{listen "db"}}]
  mode    = "starttls"
  backend = backend.db
}
backend "db" {
  servers = [%q]
  tls {
    mode        = "starttls"
    ca_file     = %q
    server_name = "localhost"
  }
}
`, addr, lab.pki.ca))
	_, direct, _ := net.SplitHostPort(addr)
	const byTLS = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
	psql(t, direct, "sslmode=verify-full", "", "-c", byTLS).ok(t).says(t, "t")
	psql(t, g.port("db"), "sslmode=verify-full", "", "-c", byTLS).exited(t, 2).says(t, "SCRAM")
	psql(t, g.port("db"), "sslmode=verify-full channel_binding=disable", "", "-c", byTLS).ok(t).says(t, "t")
}
