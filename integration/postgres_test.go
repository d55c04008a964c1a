package integration

import (
	"crypto/sha256"
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
)

// thePostgres starts one server with TLS off, that wants SCRAM of everybody.
// It runs as the user that Debian's package makes.
var thePostgres = sync.OnceValues(func() (addr string, err error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return "", fmt.Errorf("no PostgreSQL: apt-get install postgresql")
	}
	bin := bins[len(bins)-1]
	dir := filepath.Join(lab.dir, "postgres")
	pw := filepath.Join(lab.dir, "postgres-password")
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
	addr = address()
	_, port, _ := net.SplitHostPort(addr)
	d, err := start(append(as, filepath.Join(bin, "postgres"), "-D", dir, "-p", port, "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "log_connections=on")...)
	if err != nil {
		return "", err
	}
	if err := keep(d); err != nil {
		return "", err
	}
	return addr, reachable(d, addr)
})

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
