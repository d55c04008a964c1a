package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// gatewayAddr is where the servers see the gateway come from. It is the one
// address they trust: clients are bound to others.
const gatewayAddr = "127.0.0.1"

var servers struct {
	mu      sync.Mutex
	running []*daemon
}

// keep has stopServers end a server, or the guard if it comes to that.
func keep(d *daemon) error {
	servers.mu.Lock()
	defer servers.mu.Unlock()
	servers.running = append(servers.running, d)
	return lab.guard.over(d)
}

func stopServers() {
	servers.mu.Lock()
	defer servers.mu.Unlock()
	var wg sync.WaitGroup
	for _, d := range servers.running {
		wg.Go(d.stop)
	}
	wg.Wait()
}

// root ends the test where servers cannot be started.
func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacking(t, "the master processes of Postfix and Dovecot must be started by root: run go test ./integration as root")
	}
}

// portOffset keeps two runs on one machine apart.
var (
	portOffset = rand.Uint32N(9000)
	nextPort   atomic.Uint32
)

// freePort returns a TCP port that nothing is bound to. It stays below the
// range from which the kernel takes ports for clients, so it is still free
// when the server binds it.
func freePort() int {
	// A process that is forked now would hold the socket until it executes.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for range 9000 {
		port := 20000 + int((portOffset+nextPort.Add(1))%9000)
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	panic("no free port between 20000 and 29000")
}

var nextLoopback atomic.Uint32

// loopback returns a source address of the test's own, by which servers and
// gateway tell its sessions from all others in their logs.
func loopback() string {
	n := nextLoopback.Add(1)
	return fmt.Sprintf("127.16.%d.%d", n/250, 1+n%250)
}

var nextName atomic.Uint32

// fresh makes a user's name that no test, nor this one when it is repeated,
// has used before.
func fresh(name string) string { return fmt.Sprintf("%s-%d", name, nextName.Add(1)) }

// reachable waits until something accepts connections.
func reachable(d *daemon, addr string) error {
	if !eventually(10*time.Second, func() bool {
		if !d.running() {
			return true
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		return fmt.Errorf("%s does not listen on %s", d.name, addr)
	}
	if !d.running() {
		return fmt.Errorf("%s ended: %s", d.name, d.said())
	}
	return nil
}

// A logFile is what a server writes.
type logFile string

// lines returns the lines of the log that match.
func (l logFile) lines(pattern string) []string {
	text, _ := os.ReadFile(string(l))
	re := regexp.MustCompile(pattern)
	var found []string
	for line := range strings.Lines(string(text)) {
		if re.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// wait returns the first line that matches, or fails the test.
func (l logFile) wait(t *testing.T, pattern string) string {
	t.Helper()
	var found []string
	if !eventually(10*time.Second, func() bool { found = l.lines(pattern); return found != nil }) {
		t.Fatalf("no line of %s matches %s", l, pattern)
	}
	return found[0]
}

// mkdirs makes directories below dir that a server's user owns.
func mkdirs(dir string, uid, gid int, names ...string) error {
	var errs []error
	for _, name := range names {
		path := filepath.Join(dir, name)
		errs = append(errs, os.MkdirAll(path, 0o755), os.Chown(path, uid, gid))
	}
	return errors.Join(errs...)
}
