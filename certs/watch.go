package certs

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// refresher is a Source that Watch keeps current.
type refresher interface {
	// refresh looks for something newer than what is in memory and takes it.
	// When that fails, what was in memory stays.
	refresh() (changed bool, err error)
}

// warner is a Source that may hold what clients will refuse.
type warner interface{ Warnings() []string }

// Watch looks at the sources now and at every interval until ctx ends: it
// reads changed files, renews what is self-signed, and logs what came of it,
// each thing once. It does not poll faster than once a millisecond.
func Watch(ctx context.Context, interval time.Duration, sources []Source, log *slog.Logger) {
	watches := make([]watch, len(sources))
	for i, src := range sources {
		watches[i] = watch{source: src, log: log.With("certificate", src.Name())}
	}
	tick := time.NewTicker(max(interval, time.Millisecond))
	defer tick.Stop()
	for {
		for i := range watches {
			watches[i].look()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// A watch is what was said of one source.
type watch struct {
	source   Source
	log      *slog.Logger
	failure  string // of the last look
	said     string // the failure that was logged
	warnings []string
}

func (w *watch) look() {
	if r, ok := w.source.(refresher); ok {
		w.report(r.refresh())
	}
	if s, ok := w.source.(warner); ok {
		warnings := s.Warnings()
		for _, text := range warnings {
			if !slices.Contains(w.warnings, text) {
				w.log.Warn("certificate will be refused by clients", "warning", text)
			}
		}
		w.warnings = warnings
	}
}

// report logs a failure when it is seen for the second time in a row, since a
// pair that is being written looks broken once.
func (w *watch) report(changed bool, err error) {
	if err != nil {
		failure := err.Error()
		if failure == w.failure && failure != w.said {
			w.log.Error("certificate cannot be replaced, the old one stays in use", "error", err)
			w.said = failure
		}
		w.failure = failure
		return
	}
	w.failure, w.said = "", ""
	if changed {
		if cert, _ := w.source.Certificate(); cert != nil {
			w.log.Info("certificate replaced", "names", w.source.Names(), "not_after", cert.Leaf.NotAfter.UTC())
		}
	}
}
