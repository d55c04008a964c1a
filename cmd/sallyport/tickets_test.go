package main

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs/store"
	"github.com/sallyport/sallyport/certs/tickets"
	"github.com/sallyport/sallyport/config"
)

// slowStore answers after a time.
type slowStore struct {
	store.Store
	takes time.Duration
}

func (s slowStore) Get(ctx context.Context, key string) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.takes):
		return s.Store.Get(ctx, key)
	}
}

// The start waits for the keys of shared tickets, so that the first client
// resumes, but not for a store that hangs.
func TestAwaitTickets(t *testing.T) {
	for _, c := range []struct {
		takes, patience time.Duration
		ready           bool
	}{{100 * time.Millisecond, time.Minute, true}, {time.Hour, 100 * time.Millisecond, false}} {
		dir := t.TempDir()
		ring := tickets.New(tickets.Options{Store: slowStore{store.Open(filepath.Join(dir, "store")), c.takes}, SecretFile: filepath.Join(dir, "tickets.key"), Make: true})
		s := newServer(runOptions{}, io.Discard)
		s.awaitTickets(&config.Config{Tickets: ring}, c.patience)
		if _, seal, _ := ring.Secrets(); (seal != nil) != c.ready {
			t.Errorf("a store that takes %s: %x seals", c.takes, seal)
		}
		s.watcher.Close()
	}
}
