package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// debian names the package of each tool the tests start.
var debian = map[string]string{
	"cupsd":          "cups-daemon",
	"curl":           "curl",
	"named":          "bind9",
	"knotd":          "knot",
	"nsupdate":       "bind9-dnsutils",
	"dig":            "bind9-dnsutils",
	"dovecot":        "dovecot-imapd dovecot-lmtpd dovecot-pop3d dovecot-managesieved",
	"fetchmail":      "fetchmail",
	"ftp-ssl":        "ftp-ssl",
	"gnutls-cli":     "gnutls-bin",
	"haproxy":        "haproxy",
	"mariadb":        "mariadb-client",
	"mariadbd":       "mariadb-server",
	"mbsync":         "isync",
	"mpop":           "mpop",
	"ngircd":         "ngircd",
	"prosody":        "prosody",
	"go-sendxmpp":    "go-sendxmpp",
	"ipptool":        "cups-ipp-utils",
	"irssi":          "irssi",
	"s3270":          "s3270",
	"script":         "bsdutils",
	"lftp":           "lftp",
	"proftpd":        "proftpd-core proftpd-mod-crypto",
	"ldapsearch":     "ldap-utils",
	"ldapwhoami":     "ldap-utils",
	"setpriv":        "util-linux",
	"slapd":          "slapd",
	"psql":           "postgresql-client",
	"msmtp":          "msmtp",
	"nginx":          "nginx-light libnginx-mod-mail libnginx-mod-stream",
	"openssl":        "openssl",
	"postfix":        "postfix",
	"posttls-finger": "postfix",
	"prlimit":        "util-linux",
	"prometheus":     "prometheus",
	"promtool":       "prometheus",
	"python3":        "python3",
	"s-nail":         "s-nail",
	"sieve-connect":  "sieve-connect",
	"stunnel4":       "stunnel4",
	"swaks":          "swaks libnet-ssleay-perl",
}

// need skips the test when a tool is missing, and fails it in CI.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			lacking(t, "%s is not installed: apt-get install %s", tool, debian[tool])
		}
	}
}

// lacking ends a test that cannot run here: skipped for people, failed in CI,
// where nothing may be skipped.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// environment is what clients and servers may know of this machine: no dot
// files, no locale, no proxies; GORACE is for a gateway that was built with
// the race detector.
func environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + lab.home, "TMPDIR=" + lab.dir, "LC_ALL=C",
		"MAILRC=/dev/null", "PYTHONDONTWRITEBYTECODE=1", "SSL_CERT_FILE=" + lab.pki.ca,
		"GORACE=" + os.Getenv("GORACE"),
	}
}

// A result is what a client that has ended leaves behind.
type result struct {
	out  string // standard output and error, as a terminal would show them
	code int
}

// client runs a client to its end. One that hangs is killed and fails the test.
func client(t *testing.T, stdin string, argv ...string) result {
	t.Helper()
	need(t, argv[0])
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment()
	cmd.Dir = lab.home
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s hung; it had said:\n%s", strings.Join(argv, " "), out)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", argv[0], err)
	}
	return result{string(out), cmd.ProcessState.ExitCode()}
}

// ok demands that the client exited with 0.
func (r result) ok(t *testing.T) result {
	t.Helper()
	return r.exited(t, 0)
}

func (r result) exited(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("the client exited with %d, not %d:\n%s", r.code, code, r.out)
	}
	return r
}

// says demands that the client printed each text.
func (r result) says(t *testing.T, texts ...string) result {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.out, text) {
			t.Fatalf("the client did not say %q:\n%s", text, r.out)
		}
	}
	return r
}

// silentOf demands that the client did not print a text.
func (r result) silentOf(t *testing.T, text string) result {
	t.Helper()
	if strings.Contains(r.out, text) {
		t.Fatalf("the client said %q:\n%s", text, r.out)
	}
	return r
}

// A daemon is a server that was started in a process group of its own.
type daemon struct {
	name   string
	cmd    *exec.Cmd
	output *os.File
	ended  chan struct{} // closed when the process was waited for
}

// start runs a server in the foreground until stop.
func start(argv ...string) (*daemon, error) {
	d := &daemon{name: filepath.Base(argv[0]), ended: make(chan struct{})}
	// A file, not a pipe: children that outlive the server would hold it open.
	output, err := os.CreateTemp(lab.dir, d.name+"-output-")
	if err != nil {
		return nil, err
	}
	d.output = output
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.Env = environment()
	d.cmd.Dir = lab.dir
	d.cmd.Stdout, d.cmd.Stderr = output, output
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		output.Close()
		return nil, err
	}
	go d.wait()
	return d, nil
}

func (d *daemon) wait() {
	d.cmd.Wait()
	d.output.Close()
	close(d.ended)
}

// said returns the output so far.
func (d *daemon) said() string {
	text, _ := os.ReadFile(d.output.Name())
	return string(text)
}

func (d *daemon) running() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// exit waits for the process to end by itself and returns its exit code, or an
// error when it is still there after a time.
func (d *daemon) exit(patience time.Duration) (int, error) {
	select {
	case <-d.ended:
		return d.cmd.ProcessState.ExitCode(), nil
	case <-time.After(patience):
		return -1, fmt.Errorf("%s still runs after %s", d.name, patience)
	}
}

// stop ends the process and all of its group.
func (d *daemon) stop() {
	if d.running() {
		d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.ended:
		case <-time.After(5 * time.Second):
		}
	}
	syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.ended
}

// A guard outlives the tests, should they be killed, by as long as it takes to
// kill their servers. Pdeathsig cannot do that: it is forgotten when a process
// changes its user, as those of Postfix and Dovecot do.
type guard struct {
	cmd   *exec.Cmd
	watch io.WriteCloser
}

// The guard reads process groups until it is told that all is done, or until
// there is nobody left to tell it.
const guardScript = `
groups=
while read -r line; do
	[ "$line" = done ] && exit 0
	groups="$groups -$line"
done
[ -z "$groups" ] || kill -s KILL -- $groups
`

func newGuard() (*guard, error) {
	g := &guard{cmd: exec.Command("sh", "-c", guardScript)}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of reach of ^C
	var err error
	if g.watch, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return g, g.cmd.Start()
}

// over tells the guard a process group that must not outlive the tests.
func (g *guard) over(d *daemon) error {
	_, err := fmt.Fprintln(g.watch, d.cmd.Process.Pid)
	return err
}

// dismiss ends the guard when all servers have ended.
func (g *guard) dismiss() {
	fmt.Fprintln(g.watch, "done")
	g.cmd.Wait()
}

// adopt makes this process the parent of whatever its children leave behind,
// so that orphans can be counted at the end.
func adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// orphans waits for all children to be gone and returns those that are not. It
// kills them: a test run leaves nothing behind.
func orphans() []string {
	var left []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		if left = children(); len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			break
		}
	}
	for _, child := range left {
		pid, _, _ := strings.Cut(child, " ")
		if n, err := strconv.Atoi(pid); err == nil {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
	return left
}

// children lists the children of this process as "pid (name)".
func children() []string {
	var found []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// proc(5): pid (comm) state ppid …; comm may hold spaces.
		end := bytes.LastIndexByte(stat, ')')
		fields := strings.Fields(string(stat[end+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			found = append(found, string(stat[:end+1]))
		}
	}
	return found
}

// eventually polls until f returns true, and reports whether it ever did.
func eventually(patience time.Duration, f func() bool) bool {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if f() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
