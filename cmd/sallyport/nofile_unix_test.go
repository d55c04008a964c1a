//go:build unix

package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/gateway"
)

// At the start the limit of open files is raised as far as it may be, and a
// warning says where the limits of the policies promise more than it allows.
// Control: of limits that fit nothing is said.
func TestNoFile(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lower := before
	lower.Cur = before.Max - 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	if got := raiseNoFile(); got != uint64(before.Max) {
		t.Errorf("the limit is %d, and could be %d", got, before.Max)
	}

	warned := func(connections uint64) bool {
		var log bytes.Buffer
		s := &server{log: slog.New(slog.NewTextHandler(&log, nil))}
		policy := gateway.NewPolicy()
		policy.Limits.Connections = int(connections)
		s.checkNoFile(&gateway.Config{Listeners: []*gateway.Listener{{Policy: policy}, {Policy: policy}}})
		return strings.Contains(log.String(), "the limit of open files is below what limits.connections may need")
	}
	// Two listeners, two files a session.
	fits := (uint64(before.Max) - filesBesides) / 4
	if warned(fits) {
		t.Error("warned of limits that fit")
	}
	if !warned(fits + 1) {
		t.Error("not warned of limits that do not fit")
	}
}
