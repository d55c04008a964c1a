package postgres

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	// maxKeys bounds the table of a listener. The oldest key goes first; a
	// request with it then goes to every server.
	maxKeys = 16 << 10

	// maxServers is the most that a request with an unknown key is sent to.
	// A wrong key is harmless: a server does nothing with it.
	maxServers = 16

	// cancelTimeout bounds one server's part.
	cancelTimeout = 5 * time.Second
)

// A keyTable knows which server a cancel key is of: BackendKeyData, as the
// server sent it.
type keyTable struct {
	mu     sync.Mutex
	server map[string]string
	ring   []string // the keys, in the order in which they came
	oldest int
}

func newKeyTable() *keyTable { return &keyTable{server: map[string]string{}} }

func (t *keyTable) note(key, server string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.server[key]; !known {
		if len(t.ring) < maxKeys {
			t.ring = append(t.ring, key)
		} else {
			delete(t.server, t.ring[t.oldest])
			t.ring[t.oldest] = key
			t.oldest = (t.oldest + 1) % maxKeys
		}
	}
	t.server[key] = server
}

func (t *keyTable) of(key string) (server string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	server, ok = t.server[key]
	return server, ok
}

// cancel takes a CancelRequest. It has no answer: the client hears the end of
// the stream, whatever came of it.
func (t *keyTable) cancel(client *wire.Conn) (upgraders.Route, error) {
	message, err := take(client)
	if err != nil {
		return upgraders.Route{}, err
	}
	return upgraders.Route{Serve: func(ctx context.Context, d upgraders.Dialer) error {
		if server, ok := t.of(string(message[8:])); ok {
			return deliver(ctx, d, server, message)
		}
		servers := d.Servers()
		for _, server := range servers[:min(len(servers), maxServers)] {
			err = deliver(ctx, d, server, message)
		}
		return err
	}}, nil
}

// deliver sends a CancelRequest and waits until the server has taken it, as
// libpq does: a client may rely on it when the stream ends.
func deliver(ctx context.Context, d upgraders.Dialer, server string, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, cancelTimeout)
	defer cancel()
	c, err := d.Dial(ctx, server)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(cancelTimeout))
	if _, err := c.Write(message); err != nil {
		return err
	}
	io.CopyN(io.Discard, c, 1)
	return nil
}
