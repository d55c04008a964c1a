package certs_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/certs"
)

// A keeper counts how often Keep was called and how often it runs.
type keeper struct {
	certs.Source
	name           string
	begun, running atomic.Int64
	slow           time.Duration // to end
}

func (k *keeper) Name() string { return k.name }

func (k *keeper) Keep(ctx context.Context, log *slog.Logger) {
	k.begun.Add(1)
	k.running.Add(1)
	defer k.running.Add(-1)
	log.Info("kept")
	<-ctx.Done()
	time.Sleep(k.slow)
}

// What stays is left alone, what is new is begun, and what is gone is told to
// end, all of it at the same time. Apply waits for none of it, and Close for all.
func TestWatcherApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := certs.NewWatcher(time.Second, slog.New(slog.NewTextHandler(&out, nil)))
		defer w.Close()
		stays := &keeper{name: "stays"}
		gone := []*keeper{{name: "gone", slow: time.Second}, {name: "gone too", slow: time.Second}}
		other := &keeper{name: "other"}
		w.Apply([]certs.Source{stays, gone[0], gone[1]}, other)
		synctest.Wait()
		for _, k := range []*keeper{stays, gone[0], gone[1], other} {
			if k.begun.Load() != 1 {
				t.Errorf("%s was begun %d times", k.name, k.begun.Load())
			}
		}

		began := time.Now()
		fresh := &keeper{name: "fresh"}
		w.Apply([]certs.Source{fresh, stays, stays}, other)
		if took := time.Since(began); took != 0 {
			t.Errorf("what is gone was waited for %v", took)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, k := range gone {
			if k.running.Load() != 0 {
				t.Errorf("%s still runs", k.name)
			}
		}
		for _, k := range []*keeper{stays, fresh, other} {
			if k.begun.Load() != 1 || k.running.Load() != 1 {
				t.Errorf("%s was begun %d times, and runs %d times", k.name, k.begun.Load(), k.running.Load())
			}
		}
		stays.slow, fresh.slow = time.Minute, time.Minute
		w.Apply([]certs.Source{fresh}, other)
		w.Close()
		for _, k := range []*keeper{stays, fresh, other} {
			if k.running.Load() != 0 {
				t.Errorf("%s survives Close", k.name)
			}
		}
		for _, name := range []string{"stays", "fresh", `"gone too"`} {
			if !strings.Contains(out.String(), "msg=kept certificate="+name+"\n") {
				t.Errorf("the log of %s does not name it:\n%s", name, &out)
			}
		}
	})
}
