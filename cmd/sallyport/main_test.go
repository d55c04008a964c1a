package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run the program as its users do: in a process of its own, by its
// command line, seen through its output and exit code.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sallyport": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(2 * time.Minute), // what should end and does not
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"call":   cmdCall,
			"exits":  cmdExits,
			"start":  cmdStart,
			"await":  cmdAwait,
			"signal": cmdSignal,
			"ended":  cmdEnded,
			"hold":   cmdHold,
			"alive":  cmdAlive,
			"gone":   cmdGone,
			"fetch":  cmdFetch,
			"peer":   cmdPeer,
			"talk":   cmdTalk,
			"kill9":  cmdKill9,
		},
	})
}

// setupScript gives each script a certificate and a backend that keeps
// connections open and says each line back.
func setupScript(env *testscript.Env) error {
	ca, err := newDemoCA(env.WorkDir)
	if err != nil {
		return err
	}
	if err := ca.issue("localhost", net.IPv4(127, 0, 0, 1)); err != nil {
		return err
	}
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	env.Defer(func() { backend.Close() })
	go each(serveEcho)(backend)
	if err := listenNotify(env); err != nil {
		return err
	}
	// Under -race a process would sleep for a second before it exits.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Setenv("BACKEND", backend.Addr().String())
	env.Values[heldKey{}] = map[string]net.Conn{}
	env.Values[caKey{}] = ca
	env.Values[runningKey{}] = &started{}
	return nil
}

// listenNotify stands in for systemd: what the program tells it goes to
// notify.log, a line each.
func listenNotify(env *testscript.Env) error {
	path := filepath.Join(env.WorkDir, "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(env.WorkDir, "notify.log"))
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer log.Close()
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			log.WriteString(strings.TrimSpace(string(buf[:n])) + "\n")
		}
	}()
	env.Defer(func() {
		conn.Close()
		<-done
	})
	env.Setenv("NOTIFY_SOCKET", path)
	return nil
}

type (
	heldKey    struct{}
	caKey      struct{}
	runningKey struct{}
)

type started struct{ last *running }

// cmdCall runs the program in this process, which is fast, where it reads no
// files and catches no signals: call CODE ARGS...
func cmdCall(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: call code args...")
	}
	if got := strconv.Itoa(run(args[1:], strings.NewReader(""), ts.Stdout(), ts.Stderr())); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// cmdExits checks an exit code, which `! exec` does not tell apart:
// exits CODE PROGRAM ARGS...
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program args...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// A running is what start has started.
type running struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// cmdStart runs sallyport in the background, its standard error in a file and
// its standard output in another, named LOGFILE.out: start LOGFILE ARGS...
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start logfile args...")
	}
	program := ""
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if file := filepath.Join(dir, "sallyport"); program == "" && isFile(file) {
			program = file
		}
	}
	log, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer log.Close()
	out, err := os.Create(ts.MkAbs(args[0] + ".out"))
	ts.Check(err)
	defer out.Close()
	r := &running{cmd: exec.Command(program, args[1:]...), ended: make(chan struct{})}
	r.cmd.Dir = ts.MkAbs(".")
	r.cmd.Stdout, r.cmd.Stderr = out, log
	for _, name := range []string{"PATH", "TMPDIR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "GORACE", "GOCOVERDIR"} {
		if v := ts.Getenv(name); v != "" {
			r.cmd.Env = append(r.cmd.Env, name+"="+v)
		}
	}
	ts.Check(r.cmd.Start())
	go func() {
		defer close(r.ended)
		r.cmd.Wait() // the exit code is asked for later
	}()
	ts.Defer(func() {
		r.cmd.Process.Kill()
		<-r.ended
	})
	ts.Value(runningKey{}).(*started).last = r
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

const patience = 20 * time.Second

// cmdAwait waits until a file has a line that matches, and sets a variable to
// what the first group matched: await FILE REGEXP [VARIABLE]
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await file regexp [variable]")
	}
	want := regexp.MustCompile("(?m)" + args[1])
	var text []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		if m := want.FindSubmatch(text); m != nil {
			if len(args) > 2 {
				ts.Setenv(args[2], string(m[1]))
			}
			return
		}
	}
	ts.Fatalf("%s never matched %q:\n%s", args[0], args[1], text)
}

// cmdSignal sends a signal to what was started last: signal HUP
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	sig, ok := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[strings.Join(args, " ")]
	if neg || !ok {
		ts.Fatalf("usage: signal HUP|TERM|INT")
	}
	ts.Check(ts.Value(runningKey{}).(*started).last.cmd.Process.Signal(sig))
}

// cmdKill9 ends what was started last with no chance to clean up: kill9
func cmdKill9(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: kill9")
	}
	r := ts.Value(runningKey{}).(*started).last
	ts.Check(r.cmd.Process.Kill())
	<-r.ended
}

// cmdEnded waits until what was started last has ended, and checks its exit
// code: ended CODE
func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ended code")
	}
	r := ts.Value(runningKey{}).(*started).last
	select {
	case <-r.ended:
	case <-time.After(patience):
		ts.Fatalf("still running")
	}
	if got := strconv.Itoa(r.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// cmdHold opens a session through the gateway and keeps it:
// hold [-tls1.2] NAME ADDRESS
func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	version := uint16(tls.VersionTLS13)
	if len(args) == 3 && args[0] == "-tls1.2" {
		version, args = tls.VersionTLS12, args[1:]
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hold [-tls1.2] name address")
	}
	conn, err := dialOldTLS(args[1], ts.Value(caKey{}).(*demoCA).pool, version)
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	ts.Value(heldKey{}).(map[string]net.Conn)[args[0]] = conn
	ts.Check(sayAndHear(conn))
}

// cmdTalk says lines to a server in cleartext, and waits for a line of answer
// before the first and after each: talk ADDRESS LINE...
func cmdTalk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: talk address line...")
	}
	conn, err := net.DialTimeout("tcp", args[0], patience)
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	for _, line := range append([]string{""}, args[1:]...) {
		if line != "" {
			_, err := io.WriteString(conn, line+"\r\n")
			ts.Check(err)
		}
		answer, err := in.ReadString('\n')
		ts.Check(err)
		ts.Logf("%s", answer)
	}
}

// cmdAlive checks that a session still works, or with ! that it does not:
// alive NAME
func cmdAlive(ts *testscript.TestScript, neg bool, args []string) {
	conn := ts.Value(heldKey{}).(map[string]net.Conn)[strings.Join(args, " ")]
	if conn == nil {
		ts.Fatalf("nothing is held by this name")
	}
	err := sayAndHear(conn)
	if neg != (err != nil) {
		ts.Fatalf("session: %v", err)
	}
}

// cmdGone ends a session: gone NAME
func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	conn := ts.Value(heldKey{}).(map[string]net.Conn)[strings.Join(args, " ")]
	if neg || conn == nil {
		ts.Fatalf("nothing is held by this name")
	}
	conn.Close()
}

// cmdFetch gets a page and writes status and body to a file:
// fetch [-X METHOD] [-unix SOCKET] URL FILE
func cmdFetch(ts *testscript.TestScript, neg bool, args []string) {
	method, socket := "GET", ""
	for len(args) > 2 {
		switch args[0] {
		case "-X":
			method = args[1]
		case "-unix":
			socket = ts.MkAbs(args[1])
		default:
			ts.Fatalf("unknown flag %s", args[0])
		}
		args = args[2:]
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fetch [-X method] [-unix socket] url file")
	}
	page, err := fetch(method, args[0], socket)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Clean(ts.MkAbs(args[1])), page, 0o600))
}
