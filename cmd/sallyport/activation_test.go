package main

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/gateway"
)

// lacking ends a test that cannot run here: skipped for people, failed in CI,
// where nothing may be skipped.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// bound is a socket as systemd hands it over.
func bound(t *testing.T, network, address string) (*os.File, string) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		lacking(t, "cannot listen on %s here: %v", address, err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // the file keeps the port
	t.Cleanup(func() { f.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return f, port
}

// An inherited socket serves the addresses that mean it and no other; what is
// not inherited is bound anew.
func TestInheritedSocketServes(t *testing.T) {
	for _, c := range []struct {
		network, bound string
		serves, not    string // hosts of addresses, "-" is none
	}{
		{"tcp4", "127.0.0.1:0", "127.0.0.1", "- 0.0.0.0 ::1 127.0.0.2"},
		{"tcp4", "0.0.0.0:0", "0.0.0.0", "- :: 127.0.0.1"},
		{"tcp", "[::]:0", "- ::", "0.0.0.0 ::1"},
		{"tcp6", "[::]:0", "::", "- 0.0.0.0 ::1"},
		{"tcp6", "[::1]:0", "::1", "- :: 127.0.0.1"},
	} {
		t.Run(c.network+" "+c.bound, func(t *testing.T) {
			f, port := bound(t, c.network, c.bound)
			s, err := inheritSocket(f)
			if err != nil {
				t.Fatal(err)
			}
			check := func(hosts string, want bool) {
				for _, host := range strings.Fields(hosts) {
					for p, want := range map[string]bool{port: want, "0": false, "1": false} {
						address, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(strings.Trim(host, "-"), p))
						if err != nil {
							t.Fatal(err)
						}
						if s.serves(address) != want {
							t.Errorf("%v serves %v: %v, want %v", s.addr, address, !want, want)
						}
					}
				}
			}
			check(c.serves, true)
			check(c.not, false)
		})
	}
}

// A reload may drop an inherited socket and a later one ask for it again.
// Clients that came in between were waiting.
func TestInheritedSocketComesBack(t *testing.T) {
	f, port := bound(t, "tcp4", "127.0.0.1:0")
	s := inheritFiles([]*os.File{f}, slog.New(slog.DiscardHandler))
	address := "127.0.0.1:" + port
	for range 3 {
		ln, err := s.listen(address)
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		client, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			t.Fatalf("nobody waits for clients: %v", err)
		}
		defer client.Close()
	}
	ln, err := s.listen(address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
	for range 3 {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatalf("a client that waited is gone: %v", err)
		}
		conn.Close()
	}
}

// What the configuration does not ask for is said once, and again after it was
// in use; what cannot be used at all is said and closed.
func TestInheritedSocketsThatAreNotUsed(t *testing.T) {
	f, port := bound(t, "tcp4", "127.0.0.1:0")
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	datagrams, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	udp.Close()
	path := filepath.Join(t.TempDir(), "s")
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	unixFile, err := local.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	local.Close()

	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	s := inheritFiles([]*os.File{datagrams, f, unixFile}, log)
	if n := strings.Count(said.String(), "cannot be used"); n != 2 || len(s.sockets) != 1 {
		t.Errorf("%d sockets are kept, and it says:\n%s", len(s.sockets), &said)
	}
	if datagrams.Close() == nil || unixFile.Close() == nil {
		t.Error("a socket that cannot be used stays open")
	}
	none := &gateway.Config{}
	uses := &gateway.Config{Listeners: []*gateway.Listener{{Addresses: []string{"127.0.0.1:" + port}}}}
	for i, step := range []struct {
		cfg  *gateway.Config
		want int
	}{{none, 1}, {none, 0}, {uses, 0}, {none, 1}} {
		said.Reset()
		s.report(step.cfg, log)
		if n := strings.Count(said.String(), "is not used by any listener"); n != step.want {
			t.Errorf("step %d: %d warnings, want %d:\n%s", i, n, step.want, &said)
		}
	}
}

// The program, started as systemd starts it, serves the sockets it was given:
// a client that was there first is the first to be served, and the port is
// never unbound, for the next process takes over from this one.
func TestSocketActivation(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "sallyport") // TestMain runs main under this name
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	ca, err := newDemoCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.issue("localhost", net.IPv4(127, 0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go each(serveEcho)(backend)
	socket, port := bound(t, "tcp4", "127.0.0.1:0")
	spare, _ := bound(t, "tcp4", "127.0.0.1:0")
	path := filepath.Join(dir, "gw.hcl")
	if err := os.WriteFile(path, []byte(`
certificate "localhost" {
  cert_file = "localhost.crt"
  key_file  = "localhost.key"
}
backend "echo" { servers = ["`+backend.Addr().String()+`"] }
listener "tcp" "echo" {
  address = ["127.0.0.1:`+port+`"]
  mode    = "implicit"
  backend = backend.echo
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		// Nobody listens yet, and the client waits all the same.
		type result struct {
			conn net.Conn
			err  error
		}
		early := make(chan result, 1)
		go func() {
			conn, err := dialTLS("127.0.0.1:"+port, ca.pool)
			early <- result{conn, err}
		}()

		var said bytes.Buffer
		// LISTEN_PID is known only to the process itself.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=mail:spare exec "$0" "$@"`, program, "run", "-c", path)
		cmd.ExtraFiles = []*os.File{socket, spare}
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
		cmd.Dir = dir
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stopped := false
		stop := func() {
			if !stopped {
				stopped = true
				cmd.Process.Signal(syscall.SIGTERM)
				cmd.Wait()
			}
		}
		defer stop()
		r := <-early
		if r.err != nil {
			stop()
			t.Fatalf("round %d: %v\n%s", round, r.err, &said)
		}
		if err := sayAndHear(r.conn); err != nil {
			t.Error(err)
		}
		r.conn.Close()
		stop()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if out := said.String(); strings.Count(out, "is not used by any listener") != 1 || !strings.Contains(out, "name=spare") {
			t.Errorf("the socket that is not used is not said to be:\n%s", out)
		}
	}
}
