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
	for takes, ready := range map[time.Duration]bool{100 * time.Millisecond: true, time.Hour: false} {
		dir := t.TempDir()
		ring := tickets.New(tickets.Options{Store: slowStore{store.Open(filepath.Join(dir, "store")), takes}, SecretFile: filepath.Join(dir, "tickets.key"), Make: true})
		s := newServer(runOptions{}, io.Discard)
		began := time.Now()
		s.awaitTickets(&config.Config{Tickets: ring})
		if _, seal, _ := ring.Secrets(); (seal != nil) != ready {
			t.Errorf("a store that takes %s: %x seals", takes, seal)
		}
		if spent := time.Since(began); !ready && spent > 10*time.Second {
			t.Errorf("a store that takes %s: the start took %s", takes, spent)
		}
		s.watcher.Close()
	}
}
