package certs

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// refresher is a Source that a Watcher keeps current.
type refresher interface {
	// refresh looks for something newer than what is in memory and takes it.
	// When that fails, what was in memory stays.
	refresh() (changed bool, err error)
}

// warner is a Source that may hold what clients will refuse.
type warner interface{ Warnings() []string }

// A Keeper looks after itself, until ctx ends.
type Keeper interface {
	Keep(ctx context.Context, log *slog.Logger)
}

// A Watcher keeps sources current, over all changes of which there are: it
// looks at files, renews what is self-signed, and has Keepers keep themselves.
// What came of it is logged, each thing once. A Watcher belongs to one
// goroutine.
type Watcher struct {
	interval time.Duration
	log      *slog.Logger
	watched  map[any]running
	ending   []running // told to end
}

// NewWatcher returns a Watcher that looks at files at every interval, but not
// faster than once a millisecond.
func NewWatcher(interval time.Duration, log *slog.Logger) *Watcher {
	return &Watcher{interval: max(interval, time.Millisecond), log: log, watched: make(map[any]running)}
}

// Apply looks after these sources and others from now on, and no longer after
// what it was given before. Nothing happens to what was and is among them: an
// order that an authority works on goes on. What is gone is told to end and not
// waited for: a program that takes a record back may need minutes, and a reload
// has none.
func (w *Watcher) Apply(sources []Source, others ...Keeper) {
	gone := w.watched
	w.watched = make(map[any]running)
	look := func(what any, run func(ctx context.Context)) {
		if r, ok := gone[what]; ok {
			w.watched[what] = r
			delete(gone, what)
		} else if _, twice := w.watched[what]; !twice {
			w.watched[what] = start(run)
		}
	}
	for _, src := range sources {
		log := w.log.With("certificate", src.Name())
		if k, ok := src.(Keeper); ok {
			look(src, func(ctx context.Context) { k.Keep(ctx, log) })
		} else {
			look(src, func(ctx context.Context) { w.watch(ctx, src, log) })
		}
	}
	for _, k := range others {
		look(k, func(ctx context.Context) { k.Keep(ctx, w.log) })
	}
	w.ending = slices.DeleteFunc(w.ending, running.ended)
	for _, r := range gone {
		r.cancel()
		w.ending = append(w.ending, r)
	}
}

// Close ends all and waits for it.
func (w *Watcher) Close() {
	w.Apply(nil)
	for _, r := range w.ending {
		<-r.done
	}
}

// A running is a goroutine and how it is ended.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (r running) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func start(run func(ctx context.Context)) running {
	ctx, cancel := context.WithCancel(context.Background())
	r := running{cancel, make(chan struct{})}
	go func() {
		defer close(r.done)
		run(ctx)
	}()
	return r
}

// watch looks at one source.
func (w *Watcher) watch(ctx context.Context, src Source, log *slog.Logger) {
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for looks := (watch{source: src, log: log}); ; {
		looks.look()
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
