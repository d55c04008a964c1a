package acme

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Exec has a program publish, for servers that take no dynamic updates. It is
// run without a shell as
//
//	COMMAND… present NAME VALUE
//	COMMAND… cleanup NAME VALUE
//
// where NAME is where the TXT record belongs, aliases followed, without a dot
// at its end. It reads from /dev/null, knows no more of the environment than a
// PATH, and has succeeded when it exits with 0.
type Exec struct {
	Command  []string      // the program, by its whole path, and what comes before the arguments
	Timeout  time.Duration // of a run, and until the record is on all name servers
	Resolver string        // HOST:PORT; "": those of /etc/resolv.conf

	port string // of name servers, for tests
}

var _ DNS = (*Exec)(nil)

// Check says what is wrong with the settings, and what is unwise about them.
func (d *Exec) Check() (warning string, err error) {
	program := d.Command[0]
	if !filepath.IsAbs(program) {
		return "", fmt.Errorf("command %q: write the whole path of the program, since no PATH is searched", program)
	}
	info, err := os.Stat(program)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s: no such file: put the program there, or correct the path", program)
	case err != nil:
		return "", err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s is not a program: name one, and make it executable with chmod +x", program)
	case info.Mode()&0o022 != 0:
		warning = fmt.Sprintf("%s can be written by others than its owner, who could then have the gateway run anything: chmod go-w", program)
	}
	return warning, nil
}

// Patience returns the timeout.
func (d *Exec) Patience() time.Duration { return d.Timeout }

// Publish runs the program.
func (d *Exec) Publish(ctx context.Context, name, value string) (*Record, error) {
	v := view{resolver: d.Resolver, port: d.port}
	asking, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	at, err := v.follow(asking, name)
	if err != nil {
		return nil, err
	}
	zone, err := v.zone(asking, at)
	if err != nil {
		return nil, err
	}
	r := &Record{
		name: at, value: value, zone: zone, view: v, timeout: d.Timeout,
		remove: func(ctx context.Context) error { return d.run(ctx, "cleanup", bare(at), value) },
	}
	return r, d.run(ctx, "present", bare(at), value)
}

// run ends with the program, or with it and all its children killed.
func (d *Exec) run(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	argv := slices.Concat(d.Command, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	isolate(cmd)
	// A child that it leaves behind may hold its output open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	said := output.String()
	if said == "" {
		said = "nothing"
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s %s still ran after %s and was killed; it had said: %s", argv[0], args[0], d.Timeout, said)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%s %s: %w; it said: %s", argv[0], args[0], err, said)
}

// A tail keeps the last of what is written to it.
type tail struct {
	kept []byte
	cut  bool
}

const maxTail = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-maxTail):]...)
	if over := len(t.kept) - maxTail; over > 0 || len(p) > maxTail {
		t.kept = append(t.kept[:0], t.kept[max(0, over):]...)
		t.cut = true
	}
	return len(p), nil
}

// String returns it as one line, safe to print.
func (t *tail) String() string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return ' '
		}
		return r
	}, string(bytes.ToValidUTF8(t.kept, []byte(" "))))
	line = strings.Join(strings.Fields(line), " ")
	if t.cut {
		line = "… " + line
	}
	return line
}
