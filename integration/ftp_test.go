package integration

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jlaffaye/ftp"
)

// A fileServer is a ProFTPD whose users of its own share one directory. What an
// upload that was aborted has left is deleted, so that it shows whether the
// server has seen it as such.
type fileServer struct {
	*daemon
	addr  string
	files string // the directory
}

// proftpdConf is its configuration. %[1]s is its directory, %[2]d the port.
const proftpdConf = `ServerName files.example.org
ServerType standalone
DefaultAddress 127.0.0.1
SocketBindTight on
Port %[2]d
UseIPv6 off
UseReverseDNS off
User nobody
Group nogroup
PidFile %[1]s/pid
ScoreboardFile %[1]s/scoreboard
DelayTable none
WtmpLog off
TransferLog NONE
SystemLog %[1]s/log
AuthOrder mod_auth_file.c
AuthUserFile %[1]s/passwd
RequireValidShell off
DefaultRoot ~
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
DeleteAbortedStores on
MaxInstances none
`

// proftpdTLS makes it demand TLS, and data connections that resume the session
// of their control connection. %[1]s is the certificate's file without its
// ending.
const proftpdTLS = `ModulePath /usr/lib/proftpd
LoadModule mod_tls.c
TLSEngine on
TLSRequired on
TLSRSACertificateFile %[1]s.crt
TLSRSACertificateKeyFile %[1]s.key
TLSProtocol TLSv1.2 TLSv1.3
TLSSessionTickets on
`

// openFiles starts one. Its password file has a hash of the common password, as
// openssl makes it.
func openFiles(name, more string) (*fileServer, error) {
	dir := filepath.Join(lab.dir, name)
	uid, gid, err := ids("nobody")
	if err != nil {
		return nil, err
	}
	port := freePort()
	s := &fileServer{addr: fmt.Sprintf("127.0.0.1:%d", port), files: filepath.Join(dir, "files")}
	if err := errors.Join(mkdirs(dir, 0, 0, ""), mkdirs(dir, uid, gid, "files")); err != nil {
		return nil, err
	}
	hash, err := exec.Command("openssl", "passwd", "-6", password).Output()
	if err != nil {
		return nil, err
	}
	account := fmt.Sprintf("u1:%s:%d:%d::%s:/bin/false\n", bytes.TrimSpace(hash), uid, gid, s.files)
	conf := filepath.Join(dir, "proftpd.conf")
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "passwd"), []byte(account), 0o600),
		os.WriteFile(conf, []byte(fmt.Sprintf(proftpdConf, dir, port)+more), 0o600),
	); err != nil {
		return nil, err
	}
	if s.daemon, err = start("proftpd", "--nodaemon", "--config", conf); err != nil {
		return nil, err
	}
	return s, errors.Join(keep(s.daemon), reachable(s.daemon, s.addr))
}

var (
	openPlainFiles = sync.OnceValues(func() (*fileServer, error) { return openFiles("files", "") })
	openTLSFiles   = sync.OnceValues(func() (*fileServer, error) {
		inner, err := innerPKI()
		if err != nil {
			return nil, err
		}
		return openFiles("tlsfiles", fmt.Sprintf(proftpdTLS, inner.file("store")))
	})
)

// theFiles is shared; it starts when first asked for.
func theFiles(t *testing.T, open func() (*fileServer, error)) *fileServer {
	t.Helper()
	root(t)
	need(t, "proftpd", "openssl")
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put makes a file at the server.
func (s *fileServer) put(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(s.files, name)
	uid, gid, err := ids("nobody")
	if err := errors.Join(err, os.WriteFile(path, data, 0o644), os.Chown(path, uid, gid)); err != nil {
		t.Fatal(err)
	}
}

// sum is of a file at the server, or nil.
func sum(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil
	}
	return h.Sum(nil)
}

// filesBy is a gateway before a file server.
func filesBy(addr, options, more string) string {
	return fmt.Sprintf(`
listener "ftp" "ftp" {
  address  = [{{listen "ftp"}}]
  mode     = "starttls"
  hostname = "gw.example.org"
  backend  = backend.files
  options {
    passive_ports = "0"
    %[2]s
  }
}
listener "ftp" "ftps" {
  address  = [{{listen "ftps"}}]
  mode     = "implicit"
  hostname = "gw.example.org"
  backend  = backend.files
  options {
    passive_ports = "0"
    %[2]s
  }
}
backend "files" {
  servers = [%[1]q]
  %[3]s
}
`, addr, options, more)
}

// A fileClient moves one file up and down again.
type fileClient struct {
	name     string
	implicit bool
	noReuse  bool // it cannot resume a TLS session on data connections
	// argv are the commands, each run in turn; up and down are paths, name is
	// the file's at the server.
	argv func(port, up, name, down string) [][]string
}

// fileLib is Python's; argv: port, password, file to send, its name, file to
// receive, mode.
const fileLib = `
import ftplib, ssl, sys
port, password, up, name, down, mode = sys.argv[1:]
f = ftplib.FTP_TLS(context=ssl.create_default_context(), timeout=30)
f.connect("localhost", int(port))
f.set_pasv(mode == "passive")
f.login("u1", password)
f.prot_p()
with open(up, "rb") as file:
    try:
        f.storbinary("STOR " + name, file)
    except OSError: # the data connection broke: the reply says why
        f.voidresp()
        raise
with open(down, "wb") as file:
    f.retrbinary("RETR " + name, file.write)
assert name in f.nlst(), f.nlst()
f.quit()
`

func fileClients() []fileClient {
	lftp := func(set, scheme string) func(port, up, name, down string) [][]string {
		return func(port, up, name, down string) [][]string {
			script := fmt.Sprintf("set ssl:ca-file %s; set ftp:ssl-force true; set ftp:ssl-protect-data true; set ftp:ssl-protect-list true; set net:max-retries 1; set net:timeout 20; %s open -u u1,%s -p %s %slocalhost; put %s -o %s; ls; get %s -o %s",
				lab.pki.ca, set, password, port, scheme, up, name, name, down)
			return [][]string{{"lftp", "-c", script}}
		}
	}
	curl := func(scheme string, more ...string) func(port, up, name, down string) [][]string {
		return func(port, up, name, down string) [][]string {
			url := scheme + "://localhost:" + port + "/" + name
			base := append([]string{"curl", "-sS", "--ssl-reqd", "--cacert", lab.pki.ca, "--user", "u1:" + password}, more...)
			return [][]string{append(base[:len(base):len(base)], "-T", up, url), append(base[:len(base):len(base)], "-o", down, url)}
		}
	}
	python := func(mode string) func(port, up, name, down string) [][]string {
		return func(port, up, name, down string) [][]string {
			return [][]string{{"python3", "-c", fileLib, port, password, up, name, down, mode}}
		}
	}
	return []fileClient{
		{name: "curl-epsv", argv: curl("ftp")},
		{name: "curl-pasv", argv: curl("ftp", "--disable-epsv")},
		// curl takes no tickets in TLS 1.2, and crypto/tls knows no other way.
		{name: "curl-tls1.2", noReuse: true, argv: curl("ftp", "--tls-max", "1.2")},
		{name: "curl-implicit", implicit: true, argv: curl("ftps")},
		{name: "lftp-passive", argv: lftp("", "")},
		{name: "lftp-active", argv: lftp("set ftp:passive-mode off;", "")},
		{name: "lftp-implicit", implicit: true, argv: lftp("", "ftps://")},
		{name: "python-passive", noReuse: true, argv: python("passive")},
		{name: "python-active", noReuse: true, argv: python("active")},
	}
}

// bulk is how much a client moves: make soak asks for more.
func bulk() int64 {
	if n, err := strconv.ParseInt(os.Getenv("SALLYPORT_BULK"), 10, 64); err == nil {
		return n
	}
	return 64 << 20
}

// randomFile writes a file and returns its path and sum.
func randomFile(t *testing.T, size int64) (path string, want []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "up")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.Reader, size); err != nil {
		t.Fatal(err)
	}
	return path, h.Sum(nil)
}

// F-13: each client moves a large file up and down, byte for byte, passive and
// active, whoever of them resumes TLS sessions. Control: the server alone has no
// TLS for them.
func TestFileClients(t *testing.T) {
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "", ""))
	up, want := randomFile(t, bulk())
	_, direct, _ := strings.Cut(s.addr, ":")
	small, _ := randomFile(t, 100)
	for _, c := range fileClients() {
		t.Run(c.name, func(t *testing.T) {
			listener := "ftp"
			if c.implicit {
				listener = "ftps"
			}
			name := fresh("file")
			down := filepath.Join(t.TempDir(), "down")
			for _, argv := range c.argv(gw.port(listener), up, name, down) {
				client(t, "", argv...).ok(t)
			}
			if !bytes.Equal(sum(filepath.Join(s.files, name)), want) {
				t.Error("the server has another file")
			}
			if !bytes.Equal(sum(down), want) {
				t.Error("the client has another file")
			}
			gw.session(listener).is(t, "protocol", "ftp", "security", "encrypted", "outcome", "ok")
			os.Remove(filepath.Join(s.files, name))

			argv := c.argv(direct, small, name, down)[0]
			if r := client(t, "", argv...); r.code == 0 {
				t.Errorf("control: works past the gateway:\n%s", r.out)
			}
		})
	}
	if text := gw.said(); strings.Contains(text, password) {
		t.Error("a password is in the log")
	}
}

// F-05: where data connections must resume the TLS session of their control
// connection, clients that can do so work, and those that cannot are refused
// with 522, though they worked without.
func TestFileSessionReuse(t *testing.T) {
	t.Parallel()
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "require_session_reuse = true", ""))
	up, want := randomFile(t, 1<<20)
	for _, c := range fileClients() {
		listener := "ftp"
		if c.implicit {
			listener = "ftps"
		}
		name := fresh("reuse")
		down := filepath.Join(t.TempDir(), "down")
		for _, argv := range c.argv(gw.port(listener), up, name, down) {
			r := client(t, "", argv...)
			switch {
			case c.noReuse:
				if r.code == 0 {
					t.Errorf("%s: works, and cannot have resumed anything", c.name)
				}
				if strings.HasPrefix(c.name, "python") { // curl does not wait for the reply
					r.says(t, "522")
				}
			case r.code != 0:
				t.Errorf("%s exited with %d:\n%s", c.name, r.code, r.out)
			}
		}
		if got := bytes.Equal(sum(down), want); got == c.noReuse {
			t.Errorf("%s: the file arrived: %v", c.name, got)
		}
	}
}

// The backend may want TLS, on data connections too, and that they resume their
// session, as ProFTPD does by itself. Control: without tls in the backend nobody
// can log in.
func TestFilesBehindTLS(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/usr/lib/proftpd/mod_tls.so"); err != nil {
		lacking(t, "proftpd has no mod_tls: apt-get install proftpd-mod-crypto")
	}
	s := theFiles(t, openTLSFiles)
	inner, err := innerPKI()
	if err != nil {
		t.Fatal(err)
	}
	gw := serve(t, filesBy(s.addr, "", fmt.Sprintf("tls {\n mode = \"starttls\"\n ca_file = %q\n server_name = \"store.example.org\"\n}", inner.ca)))
	up, want := randomFile(t, 8<<20)
	for _, c := range fileClients() {
		if strings.HasPrefix(c.name, "python") || c.implicit {
			continue
		}
		name := fresh("tls")
		down := filepath.Join(t.TempDir(), "down")
		for _, argv := range c.argv(gw.port("ftp"), up, name, down) {
			client(t, "", argv...).ok(t)
		}
		if !bytes.Equal(sum(filepath.Join(s.files, name)), want) || !bytes.Equal(sum(down), want) {
			t.Errorf("%s: another file has arrived", c.name)
		}
	}
	clear := serve(t, filesBy(s.addr, "", ""))
	c := filesLogin(t, clear, false)
	c.send("USER u1")
	if reply := c.line(); !strings.HasPrefix(reply, "5") {
		t.Errorf("control: the server lets users in without TLS: %s", reply)
	}
	client(t, "", lab.binary, "check", "--live", "-c", clear.path()).exited(t, 1).says(t, "refuses USER in cleartext")
	client(t, "", lab.binary, "check", "--live", "-c", gw.path()).ok(t).silentOf(t, "USER")
}

// filesLogin returns a client in TLS, with its data protected, logged in if it
// is to be.
func filesLogin(t *testing.T, gw *gateway, login bool) *peer {
	t.Helper()
	c := dial(t, "", gw.addr("ftp"))
	c.want("^220 gw.example.org ")
	c.ask(234, "AUTH TLS")
	c.tls(lab.pki.client("localhost"))
	c.ask(200, "PBSZ 0")
	c.ask(200, "PROT P")
	if login {
		c.ask(331, "USER u1")
		c.ask(230, "PASS %s", password)
		c.ask(200, "TYPE I")
	}
	return c
}

// ask sends a command and demands a code; of a reply of several lines the last
// is returned.
func (p *peer) ask(code int, format string, args ...any) string {
	p.t.Helper()
	p.send(format, args...)
	for {
		line := p.line()
		switch {
		case strings.HasPrefix(line, fmt.Sprintf("%d ", code)):
			return line
		case !regexp.MustCompile(fmt.Sprintf("^(%d-| )", code)).MatchString(line):
			p.t.Fatalf("%s: got %q, want %d", format, line, code)
		}
	}
}

// passive opens a data connection.
func (p *peer) passive() *peer {
	p.t.Helper()
	reply := p.ask(229, "EPSV")
	port := regexp.MustCompile(`\|(\d+)\|\)`).FindStringSubmatch(reply)
	if port == nil {
		p.t.Fatalf("no port in %q", reply)
	}
	return dial(p.t, "", "127.0.0.1:"+port[1])
}

// REST leads beyond 4 GiB, down and up, in files of 8 GiB that are mostly holes.
func TestFilesRestart(t *testing.T) {
	t.Parallel()
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "", ""))
	const size, at = 8 << 30, 5<<30 + 7
	name := fresh("large")
	s.put(t, name, nil)
	path := filepath.Join(s.files, name)
	defer os.Remove(path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tail := []byte("the end of the file")
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(tail, size-int64(len(tail))); err != nil {
		t.Fatal(err)
	}
	c := filesLogin(t, gw, true)
	if reply := c.ask(213, "SIZE %s", name); reply != fmt.Sprintf("213 %d", int64(size)) {
		t.Errorf("SIZE: %s", reply)
	}
	d := c.passive()
	c.ask(350, "REST %d", size-int64(len(tail)))
	c.ask(150, "RETR %s", name)
	d.tls(lab.pki.client("localhost"))
	if got, err := io.ReadAll(d.conn); !bytes.Equal(got, tail) || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	c.want("^226 ")
	d = c.passive()
	c.ask(350, "REST %d", int64(at))
	c.ask(150, "STOR %s", name)
	d.tls(lab.pki.client("localhost"))
	d.write([]byte("written here"))
	d.conn.Close()
	c.want("^226 ")
	got := make([]byte, 12)
	if _, err := f.ReadAt(got, at); err != nil || string(got) != "written here" {
		t.Errorf("at %d stands %q, %v", int64(at), got, err)
	}
}

// F-09, F-11: an upload that breaks off, or is aborted, is seen so by the
// server, which then deletes it; and the session goes on.
func TestFilesAborted(t *testing.T) {
	t.Parallel()
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "", ""))
	data := make([]byte, 1<<20)
	for what, end := range map[string]func(c, d *peer){
		"no close_notify": func(c, d *peer) {
			d.raw().Close()
			c.want("^426 ")
		},
		"reset": func(c, d *peer) {
			d.raw().(*net.TCPConn).SetLinger(0)
			d.raw().Close()
			c.want("^426 ")
		},
		"ABOR": func(c, d *peer) {
			c.send("\xff\xf4\xff\xf2ABOR")
			c.want("^426 ")
			c.want("^226 ")
		},
	} {
		c := filesLogin(t, gw, true)
		name := fresh("aborted")
		d := c.passive()
		c.ask(150, "STOR %s", name)
		d.tls(lab.pki.client("localhost"))
		d.write(data)
		end(c, d)
		c.ask(200, "NOOP")
		if !eventually(patience, func() bool { _, err := os.Stat(filepath.Join(s.files, name)); return err != nil }) {
			t.Errorf("%s: the server has kept the piece", what)
		}
		// Control: in good order it stays.
		d = c.passive()
		c.ask(150, "STOR %s", name)
		d.tls(lab.pki.client("localhost"))
		d.write(data)
		d.conn.Close()
		c.want("^226 ")
		if info, err := os.Stat(filepath.Join(s.files, name)); err != nil || info.Size() != int64(len(data)) {
			t.Errorf("%s: control: %v, %v", what, info, err)
		}
		// A download that nobody takes any more.
		s.put(t, name, bytes.Repeat(data, 64))
		d = c.passive()
		c.ask(150, "RETR %s", name)
		d.tls(lab.pki.client("localhost"))
		c.send("ABOR")
		c.want("^426 ")
		c.want("^226 ")
		c.ask(221, "QUIT")
	}
}

// raw is the connection below TLS.
func (p *peer) raw() net.Conn {
	return p.conn.(interface{ NetConn() net.Conn }).NetConn().(strict).Conn
}

// F-06, F-07: nobody is led to connect elsewhere, and nobody else may connect.
func TestFilesBounce(t *testing.T) {
	t.Parallel()
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "", ""))
	c := filesLogin(t, gw, true)
	trap, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	port := trap.Addr().(*net.TCPAddr).Port
	c.ask(504, "PORT 127,0,0,2,%d,%d", port>>8, port&255)
	c.ask(504, "EPRT |1|127.0.0.2|%d|", port)
	c.ask(504, "PORT 127,0,0,1,0,22")
	c.ask(425, "LIST")
	trap.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := trap.Accept(); err == nil {
		t.Error("the gateway connects where a client points")
	}
	s.put(t, "mine", []byte("mine"))
	reply := c.ask(229, "EPSV")
	at := "127.0.0.1:" + regexp.MustCompile(`\|(\d+)\|\)`).FindStringSubmatch(reply)[1]
	c.ask(150, "RETR mine")
	if thief, err := tryDial(t, "127.0.0.3", at); err == nil {
		if line, err := thief.tryLine(); line != "" || err == nil {
			t.Errorf("a stranger gets %q", line)
		}
	}
	d := dial(t, "", at)
	d.tls(lab.pki.client("localhost"))
	if got, err := io.ReadAll(d.conn); string(got) != "mine" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	c.want("^226 ")
}

// F-13: a hundred sessions of a client library, at once.
func TestFilesParallel(t *testing.T) {
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "", "")+`
policy "many" {
  limits {
    pending_per_ip = 200
    rate_per_ip    = "1000/s"
  }
}
listener "ftp" "many" {
  address = [{{listen "many"}}]
  mode    = "starttls"
  policy  = policy.many
  backend = backend.files
  options { passive_ports = "0" }
}
`)
	var sessions sync.WaitGroup
	for range 100 {
		sessions.Go(func() {
			data := make([]byte, 1<<20)
			rand.Read(data)
			name := fresh("many")
			c, err := ftp.Dial(gw.addr("many"), ftp.DialWithExplicitTLS(lab.pki.client("localhost")), ftp.DialWithTimeout(time.Minute))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Quit()
			if err := errors.Join(c.Login("u1", password), c.Stor(name, bytes.NewReader(data))); err != nil {
				t.Error(err)
				return
			}
			r, err := c.Retr(name)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close(), c.Delete(name)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	sessions.Wait()
}

// Other clients that ask for TLS by AUTH, as far as they go.
func TestFileProbes(t *testing.T) {
	t.Parallel()
	s := theFiles(t, openPlainFiles)
	gw := serve(t, filesBy(s.addr, "", ""))
	port := gw.port("ftp")
	script := fmt.Sprintf("user u1 %s\nls\nquit\n", password)
	s.put(t, "seen", []byte("x"))
	client(t, script, "ftp-ssl", "-n", "-z", "secure", "localhost", port).ok(t).says(t, "seen")
	client(t, "FEAT\r\nQUIT\r\n", sclient("127.0.0.1:"+port, lab.pki.ca, "-starttls", "ftp", "-quiet", "-verify_quiet")...).says(t, "211 End", " PROT").silentOf(t, "AUTH TLS")
	client(t, "QUIT\r\n", "gnutls-cli", "--x509cafile="+lab.pki.ca, "-p", port, "--starttls-proto=ftp", "localhost").ok(t).says(t, "221 ")
	client(t, "", lab.binary, "probe", "ftp://127.0.0.1:"+port).says(t, "AUTH TLS")
}
