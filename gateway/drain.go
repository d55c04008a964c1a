package gateway

import (
	"context"
	"sync"
	"time"
)

// A tracker knows the sessions that are open and what those that ended have
// moved, by listener.
type tracker struct {
	mu   sync.Mutex
	open map[*session]struct{}
	idle chan struct{} // closed when nothing is open; nil while nobody waits
	by   map[string]*tally
}

// A tally is what one listener's sessions come to.
type tally struct {
	active  int
	in, out int64 // of sessions that ended
}

// start runs a session in its own goroutine.
func (t *tracker) start(s *session) {
	t.mu.Lock()
	if t.open == nil {
		t.open = map[*session]struct{}{}
	}
	t.open[s] = struct{}{}
	t.tallyLocked(s.l.cfg.Name).active++
	t.mu.Unlock()
	go func() {
		defer t.end(s)
		s.run()
	}()
}

func (t *tracker) end(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, s)
	y := t.tallyLocked(s.l.cfg.Name)
	y.active--
	y.in += s.sock.Received()
	y.out += s.sock.Sent()
	if len(t.open) == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

func (t *tracker) tallyLocked(listener string) *tally {
	if t.by == nil {
		t.by = map[string]*tally{}
	}
	y := t.by[listener]
	if y == nil {
		y = &tally{}
		t.by[listener] = y
	}
	return y
}

// totals returns each listener's tally, with what open sessions have moved
// until now.
func (t *tracker) totals() map[string]tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := make(map[string]tally, len(t.by))
	for name, y := range t.by {
		sum[name] = *y
	}
	for s := range t.open {
		y := sum[s.l.cfg.Name]
		y.in += s.sock.Received()
		y.out += s.sock.Sent()
		sum[s.l.cfg.Name] = y
	}
	return sum
}

// wait returns a channel that is closed once nothing is open.
func (t *tracker) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	done := make(chan struct{})
	if len(t.open) == 0 {
		close(done)
		return done
	}
	if t.idle == nil {
		t.idle = done
	}
	return t.idle
}

// drain waits for the sessions to end, each until its listener's drain timeout
// and none longer than ctx, and then has cut end what does not end when told
// to. It returns how many had to be told.
func (t *tracker) drain(ctx context.Context, since time.Time, cut func()) int {
	forced := map[*session]bool{}
	done := t.wait()
	for {
		next := t.force(forced, func(s *session) time.Duration {
			if ctx.Err() != nil {
				return 0
			}
			return time.Until(since.Add(s.l.cfg.Policy.DrainTimeout))
		})
		if next <= 0 {
			break
		}
		timer := time.NewTimer(next)
		select {
		case <-done:
			timer.Stop()
			return len(forced)
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	// All are told to end now; who cannot even take a refusal is cut.
	select {
	case <-done:
	case <-time.After(forceGrace):
		cut()
		<-done
	}
	return len(forced)
}

// force ends the sessions whose time is up, and returns how long until the
// next one's is; zero when none is left to wait for.
func (t *tracker) force(forced map[*session]bool, left func(*session) time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next time.Duration
	for s := range t.open {
		if forced[s] {
			continue
		}
		d := left(s)
		if d <= 0 {
			forced[s] = true
			s.sock.Shutdown()
		} else if next == 0 || d < next {
			next = d
		}
	}
	return next
}
