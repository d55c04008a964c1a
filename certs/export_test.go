package certs

import (
	"log/slog"
	"strings"
)

// Looks returns a function that looks at a source once, as a Watcher does at each
// interval, and returns what that logged.
func Looks(src Source) func() string {
	var out strings.Builder
	w := watch{source: src, log: slog.New(slog.NewTextHandler(&out, nil))}
	return func() string {
		out.Reset()
		w.look()
		return out.String()
	}
}
