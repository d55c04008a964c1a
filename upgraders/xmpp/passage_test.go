package xmpp

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// slow is a client's conn on which the write of what ends the filter lasts until
// the client has answered it, and the gateway has read that.
type slow struct {
	net.Conn
	last     []byte
	answered chan struct{}
}

func (c *slow) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if bytes.HasSuffix(p, c.last) {
		<-c.answered
	}
	return n, err
}

// The session is opaque before the client can know it: what it says next is the
// relay's, however soon it comes.
func TestOpaqueInTime(t *testing.T) {
	const next = "<starttls/><!-- opaque -->"
	for name, c := range map[string]struct {
		v     variant
		said  string // by the backend
		heard string // by the client, in the end
		rest  string // of the backend, for the relay
	}{
		"features": {variant{content: "jabber:client"}, features() + "<success/>" + features(withTLS, "<bind/>"), features() + "<success/>" + features("<bind/>"), ""},
		"sasl2":    {variant{content: "jabber:client"}, features() + "<success/><features/>", features() + "<success/><features/>", ""},
		"stanza":   {variant{content: "jabber:client"}, features() + "<iq/>", features(), "<iq/>"},
		"dialback": {variant{content: "jabber:server", servers: true}, features() + "<db:result type='valid'>x</db:result>", features(), "<db:result type='valid'>x</db:result>"},
	} {
		t.Run(name, func(t *testing.T) {
			client, clientEnd := net.Pipe()
			backend, backendEnd := net.Pipe()
			for _, conn := range []net.Conn{client, clientEnd, backend, backendEnd} {
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				defer conn.Close()
			}
			go io.WriteString(backendEnd, c.said)
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				heard := make([]byte, len(c.heard))
				if _, err := io.ReadFull(clientEnd, heard); err != nil || string(heard) != c.heard {
					t.Errorf("heard %q, %v; want %q", heard, err, c.heard)
				}
				io.WriteString(clientEnd, next)
			}()
			p := &passage{variant: c.v, versions: true}
			link := &upgraders.Link{
				Client:  wire.NewConn(&slow{Conn: client, last: []byte(c.heard), answered: answered}),
				Backend: wire.NewConn(backend), Log: t.Logf,
			}
			if err := p.converse(context.Background(), link); err != nil {
				t.Error(err)
			}
			if got := string(link.Client.Unread()); got != next {
				t.Errorf("for the relay: %q", got)
			}
			if got := string(link.Backend.Unread()); got != c.rest {
				t.Errorf("of the backend, for the relay: %q", got)
			}
		})
	}
}
