package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asNobody sends a request on a unix socket as another user, and returns what
// comes back.
func asNobody(path string) (answer string, err error) {
	const nobody = 65534
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is another user's from now on, and ends with the
		// goroutine because it is not unlocked.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			err = errno
			return
		}
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return
		}
		unix.Write(fd, []byte("GET /clients HTTP/1.0\r\n\r\n"))
		buf := make([]byte, 100)
		n, rerr := unix.Read(fd, buf)
		answer, err = string(buf[:max(n, 0)]), rerr
	}()
	<-done
	return answer, err
}

// Another user cannot connect to the control socket, and gets no answer where
// the mode would let him. Control: the gateway's own user gets one.
func TestControlIsPrivate(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "only root can be somebody else")
	}
	dir, err := os.MkdirTemp("", "sallyport-control-") // t.TempDir lies below what others may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	var log bytes.Buffer
	c := bindControl(path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }), slog.New(slog.NewTextHandler(&log, nil)))
	if c.ln == nil {
		t.Fatal(log.String())
	}
	c.serve()
	if _, err := asNobody(path); !errors.Is(err, unix.EACCES) {
		t.Errorf("with mode 0600, connect: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if answer, err := asNobody(path); answer != "" {
		t.Errorf("a stranger was answered %q, %v", answer, err)
	}
	config := filepath.Join(dir, "a.hcl")
	if err := os.WriteFile(config, []byte("admin { control = \"control.sock\" }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := askControl(t.Context(), config, nil, "/clients", &answer); err != nil {
		t.Error("control:", err)
	}
	c.close()
	if !strings.Contains(log.String(), "a stranger asks on the control socket\" uid=65534") {
		t.Errorf("the log says %q", log.String())
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
	start := time.Now()
	if err := askControl(t.Context(), config, nil, "/clients", &answer); err == nil || !strings.Contains(err.Error(), "is a gateway running") || time.Since(start) > 5*time.Second {
		t.Errorf("nobody there: %v", err)
	}
}
