package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// mxSecond is mx with another backend, another policy and one listener more.
var mxSecond = strings.Replace(mx, `{{postfix "mx"}}`, `{{postfix "second"}}`, 1) + `
listener "smtp" "more" {
  address = [{{listen "more"}}]
  mode    = "starttls"
  backend = backend.postfix
}
`

// reload sends SIGHUP and waits until the gateway has obeyed, or refused.
func (g *gateway) reload(result string) {
	g.t.Helper()
	before := g.metric("sallyport_config_reloads_total", `result="`+result+`"`)
	g.signal(syscall.SIGHUP)
	if !eventually(patience, func() bool {
		return g.metric("sallyport_config_reloads_total", `result="`+result+`"`) > before
	}) {
		g.t.Fatalf("no reload was counted as %s", result)
	}
}

// sendOne sends a message through a new session and returns what went wrong.
// Unlike the methods of peer it may be used where a failure is expected.
func sendOne(t *testing.T, addr, to string) error {
	c, err := tryDial(t, loopback(), addr)
	if err != nil {
		return err
	}
	defer func() { c.conn.Close() }() // the one inside TLS
	expect := func(code string) error {
		for {
			line, err := c.tryLine()
			if err != nil {
				return fmt.Errorf("waiting for %s: %w", code, err)
			}
			if !strings.HasPrefix(line, code) {
				return fmt.Errorf("waiting for %s: %q", code, line)
			}
			if len(line) == 3 || line[3] == ' ' {
				return nil
			}
		}
	}
	say := func(text, code string) error {
		c.conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(c.conn, "%s\r\n", text); err != nil {
			return err
		}
		return expect(code)
	}
	if err := errors.Join(expect("220"), say("EHLO client.example.net", "250"), say("STARTTLS", "220")); err != nil {
		return err
	}
	if err := c.tryTLS(lab.pki.client("localhost")); err != nil {
		return err
	}
	for _, step := range [][2]string{
		{"EHLO client.example.net", "250"}, {"MAIL FROM:<a@example.net>", "250"}, {"RCPT TO:<" + to + ">", "250"},
		{"DATA", "354"}, {"Subject: load\r\n\r\nload\r\n.", "250"}, {"QUIT", "221"},
	} {
		if err := say(step[0], step[1]); err != nil {
			return err
		}
	}
	if line, err := c.tryLine(); err != io.EOF {
		return fmt.Errorf("waiting for the end: %q, %v", line, err)
	}
	return nil
}

// Reloads under load lose no session: neither those that come and go while
// SIGHUP after SIGHUP swaps backend, policy and listeners, nor those that were
// there before and stay. New sessions get the new configuration. Control: the
// same load notices when the gateway is killed.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	thePostfix(t)
	gw := serve(t, mx+mailboxes)
	localhost := lab.pki.client("localhost")

	// Three that stay: in the dialogue, inside TLS, and opaque and idle.
	dialogue := dial(t, loopback(), gw.addr("mx"))
	dialogue.reply(220)
	dialogue.cmd(250, "EHLO client.example.net")
	to := fresh("stays")
	inside := dial(t, loopback(), gw.addr("mx"))
	inside.smtpTLS(localhost)
	inside.cmd(250, "MAIL FROM:<a@example.net>")
	inside.cmd(250, "RCPT TO:<%s@raw.example.org>", to)
	inside.cmd(354, "DATA")
	inside.send("Subject: begun before the reload\r\n")
	idle := dialTLS(t, loopback(), gw.addr("imaps"), localhost)
	idle.want(`^\* OK`)
	idle.imapOK("LOGIN stays@example.org %s", password)
	idle.imapOK("SELECT INBOX")
	idle.send("i IDLE")
	idle.want(`^\+ `)

	var wg sync.WaitGroup
	var sent, failed atomic.Int32
	var stop atomic.Bool
	var mu sync.Mutex
	var failures []error
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				if err := sendOne(t, gw.addr("mx"), "load@relay.example.com"); err == nil {
					sent.Add(1)
				} else {
					failed.Add(1)
					mu.Lock()
					failures = append(failures, err)
					failures = failures[:min(5, len(failures))]
					mu.Unlock()
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	defer wg.Wait()
	defer stop.Store(true)
	for i := range 12 {
		gw.configure([]string{mxSecond, mx}[i%2] + mailboxes)
		gw.reload("ok")
		time.Sleep(100 * time.Millisecond)
	}
	if !eventually(patience, func() bool { return sent.Load() >= 100 }) || failed.Load() > 0 {
		t.Errorf("%d messages were sent, %d failed: %v", sent.Load(), failed.Load(), errors.Join(failures...))
	}

	gw.configure(mxSecond + mailboxes)
	gw.reload("ok")
	for _, listener := range []string{"mx", "more"} {
		c := dial(t, loopback(), gw.addr(listener))
		if r := c.smtpTLS(localhost); !strings.HasPrefix(r.lines[0], "second.example.org") {
			t.Errorf("a new session on %s reaches %s", listener, r.lines[0])
		}
	}
	dialogue.cmd(220, "STARTTLS")
	dialogue.tls(localhost)
	dialogue.cmd(250, "EHLO client.example.net")
	inside.send("and ended after it")
	inside.cmd(250, ".")
	inside.cmd(221, "QUIT")
	inside.clean()
	if !strings.Contains(string(thePostfix(t).delivered(t, to)), "and ended after it") {
		t.Error("the message that was under way is not whole")
	}
	idle.send("DONE")
	idle.until(`^i OK`)
	idle.imapOK("LOGOUT")
	idle.clean()

	gw.signal(syscall.SIGKILL)
	if !eventually(patience, func() bool { return failed.Load() > 0 }) {
		t.Error("control: the load does not notice that the gateway was killed")
	}
}

// A configuration that is wrong leaves the old one running and says what is
// wrong, and where; the next one that is right is taken. Control: that one.
func TestBadReload(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx)
	serves := func(name string) {
		t.Helper()
		c := dial(t, loopback(), gw.addr("mx"))
		if r := c.smtpTLS(lab.pki.client("localhost")); !strings.HasPrefix(r.lines[0], name) {
			t.Errorf("reached %s, not %s", r.lines[0], name)
		}
	}
	serves("mx.example.org")
	for _, wrong := range []string{
		mxSecond + "listener \"smtp\" \"broken\" {",                           // no HCL
		mxSecond + "nonsense = 1\n",                                           // no such attribute
		strings.Replace(mxSecond, "backend.postfix", "backend.nobody", 1),     // no such backend
		strings.Replace(mxSecond, `{{listen "more"}}`, `{{postfix "mx"}}`, 1), // a port that is taken
	} {
		gw.configure(wrong)
		gw.reload("failed")
		serves("mx.example.org")
	}
	gw.waitLog(`sallyport.hcl:\d+`)
	if gw.get("/readyz") != 200 {
		t.Error("not ready though the old configuration runs")
	}
	gw.configure(mxSecond)
	gw.reload("ok")
	serves("second.example.org")
}

// A certificate whose files change is taken without being told to, and one
// that is broken leaves the old one in service, also when a reload asks for
// it. Control: before the change the old one is served.
func TestCertificateChanges(t *testing.T) {
	t.Parallel()
	if err := lab.pki.issue("changing", "changing.example.org"); err != nil {
		t.Fatal(err)
	}
	gw := serve(t, mx+lab.pki.hcl("changing"))
	serial := func() string {
		t.Helper()
		c := dialTLS(t, loopback(), gw.addr("smtps"), lab.pki.client("changing.example.org"))
		defer c.conn.Close()
		return c.state().PeerCertificates[0].SerialNumber.String()
	}
	onDisk := func() string {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(lab.pki.file("changing.crt"), lab.pki.file("changing.key"))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.String()
	}
	first := onDisk()
	if serial() != first {
		t.Fatal("control: another certificate than the one on disk is served")
	}
	if err := lab.pki.issue("changing", "changing.example.org"); err != nil {
		t.Fatal(err)
	}
	second := onDisk()
	if second == first || !eventually(30*time.Second, func() bool { return serial() == second }) {
		t.Error("the new certificate is not served")
	}
	if err := os.WriteFile(lab.pki.file("changing.crt"), []byte("-----BEGIN NONSENSE-----"), 0o600); err != nil {
		t.Fatal(err)
	}
	gw.reload("failed")
	gw.waitLog(`changing\.crt`)
	if serial() != second {
		t.Error("the broken certificate displaced the good one")
	}
}

// SIGTERM stops accepting and lets sessions end by themselves: one that is
// under way finishes its message, and the exit code is 0. Control: while it
// lasts the gateway stays.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := thePostfix(t)
	gw := serve(t, mx)
	c := dial(t, loopback(), gw.addr("mx"))
	c.smtpTLS(lab.pki.client("localhost"))
	c.cmd(250, "MAIL FROM:<a@example.net>")
	gw.signal(syscall.SIGTERM)
	if !eventually(patience, func() bool { return gw.get("/readyz") != 200 }) {
		t.Error("still ready while draining")
	}
	if !eventually(patience, func() bool {
		c, err := tryDial(t, loopback(), gw.addr("mx"))
		if err == nil {
			c.conn.Close()
		}
		return err != nil
	}) {
		t.Error("still accepting while draining")
	}
	time.Sleep(500 * time.Millisecond)
	if !gw.running() {
		t.Fatal("control: the gateway left a session behind")
	}
	to := fresh("drained")
	c.cmd(250, "RCPT TO:<%s@raw.example.org>", to)
	c.cmd(354, "DATA")
	c.cmd(250, "Subject: drained\r\n\r\nwhole\r\n.")
	c.cmd(221, "QUIT")
	c.clean()
	if code, err := gw.exit(patience); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	p.delivered(t, to)
}

// What does not end in time is ended at drain_timeout: a dialogue in the
// protocol's words, an opaque stream by close_notify, and the exit code says
// that it was forced. Control: without such sessions it exits with 0 at once.
func TestForcedDrain(t *testing.T) {
	t.Parallel()
	impatient := strings.Replace(mx+mailboxes, "listener", "policy \"impatient\" { drain_timeout = \"1s\" }\nlistener", 1)
	impatient = strings.ReplaceAll(impatient, "  backend ", "  policy = policy.impatient\n  backend ")
	gw := serve(t, impatient)
	smtp := dial(t, loopback(), gw.addr("mx"))
	smtp.reply(220)
	imap := dial(t, loopback(), gw.addr("imap"))
	imap.want(`^\* OK`)
	opaque := dialTLS(t, loopback(), gw.addr("imaps"), lab.pki.client("localhost"))
	opaque.want(`^\* OK`)
	opaque.imapOK("LOGIN forced %s", password)
	opaque.imapOK("NOOP")
	begin := time.Now()
	gw.signal(syscall.SIGTERM)
	smtp.reply(421)
	smtp.closed()
	imap.want(`^\* BYE`)
	imap.closed()
	opaque.clean()
	if code, err := gw.exit(patience); err != nil || code == 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if spent := time.Since(begin); spent < 900*time.Millisecond || spent > 10*time.Second {
		t.Errorf("a drain of 1s took %s", spent)
	}

	gw = serve(t, impatient)
	gw.signal(syscall.SIGTERM)
	if code, err := gw.exit(900 * time.Millisecond); err != nil || code != 0 {
		t.Errorf("control: exit code %d, %v", code, err)
	}
}
