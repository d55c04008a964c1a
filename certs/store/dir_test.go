//go:build linux

package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs/store"
)

// The tests run themselves again as other processes, to see what processes do
// to each other.
const roleEnv = "SALLYPORT_STORE_TEST"

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	s, ctx := store.Open(os.Args[1]), context.Background()
	die := func(err error) {
		if err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
	}
	switch role {
	case "count": // adds one to a number, under a lock, many times
		for range 50 {
			unlock, err := s.Lock(ctx, "count")
			die(err)
			n, err := s.Get(ctx, "n")
			if !errors.Is(err, store.ErrNotFound) {
				die(err)
			}
			die(s.Put(ctx, "n", append(n, '.')))
			unlock()
		}
	case "hold": // takes a lock and waits to be killed
		unlock, err := s.Lock(ctx, "held")
		die(err)
		os.Stdout.WriteString("held\n")
		time.Sleep(time.Hour)
		unlock()
	case "write": // writes two values in turn until it is killed
		for n := 0; ; n++ {
			die(s.Put(ctx, "dir/value", values[n%2]))
			if n == 2 {
				os.Stdout.WriteString("writing\n")
			}
		}
	case "full":
		die(limitFileSize(4096))
		die(s.Put(ctx, "value", values[0]))
	}
}

// values are larger than a page, so that half of one could be seen.
var values = [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 70_000)}

// process starts this test binary in another role.
func process(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, dir)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// begun starts a process and returns when it has said its line.
func begun(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != want {
		t.Fatalf("%q, %v; want %q", line, err, want)
	}
}

func open(t *testing.T) (*store.Dir, string) {
	dir := filepath.Join(t.TempDir(), "acme")
	return store.Open(dir), dir
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// What was put is got, listed and deleted; what was not is ErrNotFound.
func TestDir(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	if _, err := s.Get(ctx, "a/b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an empty store: %v", err)
	}
	if keys, err := s.List(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("an empty store lists %v, %v", keys, err)
	}
	if err := s.Delete(ctx, "a/b"); err != nil {
		t.Error(err)
	}
	put(t, s, "certificates/mail.example.org", "one")
	put(t, s, "certificates/mail.example.org", "two")
	put(t, s, "certificates/a", "")
	put(t, s, "accounts/x/key", "k")
	unlock, err := s.Lock(ctx, "certificates/a")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if data, err := s.Get(ctx, "certificates/mail.example.org"); err != nil || string(data) != "two" {
		t.Errorf("%q, %v", data, err)
	}
	for prefix, want := range map[string][]string{
		"":               {"accounts/x/key", "certificates/a", "certificates/mail.example.org"},
		"cert":           {"certificates/a", "certificates/mail.example.org"},
		"certificates/":  {"certificates/a", "certificates/mail.example.org"},
		"certificates/m": {"certificates/mail.example.org"},
		"accounts/x/":    {"accounts/x/key"},
		"none/":          nil,
	} {
		if keys, err := s.List(ctx, prefix); err != nil || !slices.Equal(keys, want) {
			t.Errorf("List(%q) = %v, %v; want %v", prefix, keys, err, want)
		}
	}
	if err := s.Delete(ctx, "certificates/a"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, "certificates/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

// Looking creates nothing, so that `check` leaves no traces.
func TestLooksOnly(t *testing.T) {
	s, dir := open(t)
	s.Get(t.Context(), "a")
	s.List(t.Context(), "a/")
	s.Delete(t.Context(), "a")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
}

// No key leaves the directory or meets what is ours.
func TestKeys(t *testing.T) {
	s, _ := open(t)
	for _, key := range []string{"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../../b", ".version", ".locks/a", "a/.new-1",
		"A", "a b", "a\x00b", `a\b`, "*.example.org", "ä", strings.Repeat("a", 256)} {
		_, err := s.Get(t.Context(), key)
		if err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get(%q): %v", key, err)
		}
		if err := s.Put(t.Context(), key, nil); err == nil {
			t.Errorf("Put(%q) worked", key)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete(%q) worked", key)
		}
		if _, err := s.Lock(t.Context(), key); err == nil {
			t.Errorf("Lock(%q) worked", key)
		}
	}
	if _, err := s.List(t.Context(), "../a"); err == nil {
		t.Error("List left the directory")
	}
	put(t, s, strings.Repeat("a", 255), "long enough")
	put(t, s, "0-9_a.b", "")
	if err := s.Put(t.Context(), "large", make([]byte, store.MaxValue+1)); err == nil {
		t.Error("a value without bounds was taken")
	}
}

// Only the owner can read what is in it, whatever the umask.
func TestPermissions(t *testing.T) {
	s, dir := open(t)
	put(t, s, "a/b", "secret")
	unlock, err := s.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	files := 0
	filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if files++; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
		return nil
	})
	if files < 6 {
		t.Errorf("%d files were looked at", files)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "a/b"); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
		t.Errorf("a directory that everybody can write: %v", err)
	}
}

// Readers see one value or the other, and so does who comes after a writer was
// killed; what the dead leave is swept up.
func TestPutIsAtomic(t *testing.T) {
	s, dir := open(t)
	for range 5 {
		cmd := process(t, "write", dir)
		begun(t, cmd, "writing")
		for range 200 {
			data, err := s.Get(t.Context(), "dir/value")
			if err != nil || !bytes.Equal(data, values[0]) && !bytes.Equal(data, values[1]) {
				t.Fatalf("%d bytes, %v", len(data), err)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		if data, err := s.Get(t.Context(), "dir/value"); err != nil || !bytes.Equal(data, values[0]) && !bytes.Equal(data, values[1]) {
			t.Fatalf("after a crash: %d bytes, %v", len(data), err)
		}
	}
	left, fresh := filepath.Join(dir, "dir", ".new-1"), filepath.Join(dir, "dir", ".new-2")
	for _, name := range []string{left, fresh} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	put(t, s, "dir/value", "x")
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a dead process left is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("what another process writes just now is gone: %v", err)
	}
	if keys, err := s.List(t.Context(), ""); err != nil || !slices.Equal(keys, []string{"dir/value"}) {
		t.Errorf("%v, %v", keys, err)
	}
}

// One holder among all processes, and among the goroutines of one.
func TestLock(t *testing.T) {
	s, dir := open(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if out, err := process(t, "count", dir).Output(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			unlock, err := s.Lock(t.Context(), "count")
			if err != nil {
				t.Error(err)
				return
			}
			n, err := s.Get(t.Context(), "n")
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
			put(t, s, "n", string(n)+".")
			unlock()
		}
	})
	wg.Wait()
	if n, err := s.Get(t.Context(), "n"); err != nil || len(n) != 200 {
		t.Errorf("4 counted 50 each under a lock, and got %d, %v", len(n), err)
	}
}

// A lock ends with the process that held it, and not before.
func TestLockOfTheDead(t *testing.T) {
	s, dir := open(t)
	cmd := process(t, "hold", dir)
	begun(t, cmd, "held")
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(short, "held"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprintf("process %d on ", cmd.Process.Pid)) {
		t.Errorf("the lock of another process: %v", err)
	}
	if unlock, err := s.Lock(t.Context(), "another"); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
	cmd.Process.Kill()
	unlock, err := s.Lock(t.Context(), "held")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A disk that is full keeps the old value, leaves nothing, and is an error.
func TestDiskFull(t *testing.T) {
	s, dir := open(t)
	put(t, s, "value", "old")
	out, err := process(t, "full", dir).Output()
	if err == nil || !strings.Contains(string(out), "cannot write value") {
		t.Errorf("%v: %s", err, out)
	}
	if data, err := s.Get(t.Context(), "value"); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

// A store that may only be read serves what is in it; writing says who may not.
func TestReadOnly(t *testing.T) {
	s, dir := open(t)
	put(t, s, "value", "old")
	// What is there already must not need the right to make it.
	for _, name := range []string{dir, filepath.Join(dir, "value"), filepath.Join(dir, ".version")} {
		mode := fs.FileMode(0o444)
		if name == dir {
			mode = 0o555
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(dir, 0o755) })
	openAbove(t, dir)
	unprivileged(t, func() {
		if data, err := s.Get(t.Context(), "value"); err != nil || string(data) != "old" {
			t.Errorf("%q, %v", data, err)
		}
		for doing, err := range map[string]error{
			"write value":  s.Put(t.Context(), "value", []byte("new")),
			"delete value": s.Delete(t.Context(), "value"),
			"lock value":   second(s.Lock(t.Context(), "value")),
		} {
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir+": cannot "+doing) || !strings.Contains(err.Error(), "let user id") {
				t.Errorf("%s: %v", doing, err)
			}
		}
	})
	if data, err := s.Get(t.Context(), "value"); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
}

func second(_ func(), err error) error { return err }

// What another version wrote is neither read nor overwritten, and the error
// says what to do.
func TestAnotherVersion(t *testing.T) {
	s, dir := open(t)
	put(t, s, "value", "old")
	if err := os.WriteFile(filepath.Join(dir, ".version"), []byte("sallyport store 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, get := s.Get(t.Context(), "value")
	_, list := s.List(t.Context(), "")
	_, lock := s.Lock(t.Context(), "a")
	for doing, err := range map[string]error{
		"get": get, "list": list, "lock": lock,
		"put":    s.Put(t.Context(), "value", []byte("new")),
		"delete": s.Delete(t.Context(), "value"),
	} {
		if !errors.Is(err, store.ErrVersion) || !strings.Contains(err.Error(), "sallyport store 2") || !strings.Contains(err.Error(), "name another directory") {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "value")); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
}

// What stands in the way of a store is named.
func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []store.Store{store.Open(file), store.Open(filepath.Join(file, "below"))} {
		_, err := s.Get(t.Context(), "a")
		if err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Get: %v", s, err)
		}
		if err := s.Put(t.Context(), "a", nil); err == nil || !strings.Contains(err.Error(), s.String()) {
			t.Errorf("%s: Put: %v", s, err)
		}
	}
}

// W-19: A file system that hangs, here by a pipe that nobody writes into, holds up
// nobody who has said how long he waits, and what hangs is bounded.
func TestHangs(t *testing.T) {
	s, dir := open(t)
	put(t, s, "a", "a")
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	ended, end := context.WithCancel(t.Context())
	end()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := s.Get(ended, "pipe"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "see that what it is mounted from is there") {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if n := runtime.NumGoroutine() - before; n > 100 {
		t.Errorf("%d goroutines hang", n)
	}
	// Once it is back, so are we.
	w, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got, err := s.Get(t.Context(), "a"); err != nil || string(got) != "a" {
		t.Errorf("%q, %v", got, err)
	}
}
