// Six sketches of protocols that bend the contract most. They are not the
// protocols: each shows the one thing that could have broken the contract, and
// a short dialogue shows that it didn't.
package upgraders_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

var (
	_ upgraders.Upgrader = ftp{}
	_ upgraders.Upgrader = mysql{}
	_ upgraders.Upgrader = web{}
	_ upgraders.Upgrader = xmpp{}
	_ upgraders.Upgrader = (*postgres)(nil)
	_ upgraders.Upgrader = ldap{}
)

func hangUp(reply string, err error) (upgraders.Handover, error) {
	return upgraders.Handover{Reply: []byte(reply)}, err
}

// ftp: the control channel is filtered for ever, an answer of our own keeps
// its place among the backend's, and data connections run beside the session.
type ftp struct{}

func (f ftp) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	io.WriteString(s.Conn, "220 "+s.Listener.Hostname+"\r\n")
	for {
		line, err := s.Conn.ReadLine(512)
		switch {
		case err != nil:
			return hangUp("421 Closing\r\n", err)
		case strings.EqualFold(string(line), "AUTH TLS"):
			h := f.Implicit(s)
			h.Verdict, h.Reply, h.Injected = upgraders.StartTLS, []byte("234 Go ahead\r\n"), []byte("421 Closing\r\n")
			h.Join = func(_ context.Context, link *upgraders.Link) error { // the client has had its greeting
				_, err := link.Backend.ReadLine(512)
				return err
			}
			return h, nil
		}
		io.WriteString(s.Conn, "530 AUTH TLS first\r\n")
	}
}

func (ftp) Implicit(s *upgraders.Session) upgraders.Handover {
	return upgraders.Handover{Converse: func(ctx context.Context, link *upgraders.Link) error {
		var transfers sync.WaitGroup
		defer transfers.Wait()
		asked := make(chan string, 16) // what each reply of the backend answers
		up := func() error {
			for {
				line, err := link.Client.ReadLine(512)
				if err != nil {
					return err
				}
				if asked <- string(line); string(line) == "PROT P" {
					line = []byte("NOOP")
				}
				fmt.Fprintf(link.Backend, "%s\r\n", line)
			}
		}
		down := func() error {
			for {
				line, err := link.Backend.ReadLine(512)
				if err != nil {
					return err
				}
				switch reply := string(line); <-asked {
				case "PROT P":
					reply = "200 Protected"
					fallthrough
				default:
					fmt.Fprintf(link.Client, "%s\r\n", reply)
				case "EPSV":
					var port uint16
					fmt.Sscanf(reply, "229 Extended (|||%d|)", &port)
					l, err := s.Data.Listen(40000, 40999)
					if err != nil {
						return err
					}
					transfers.Go(func() { retrieve(ctx, s.Data, l, port) })
					fmt.Fprintf(link.Client, "229 Extended (|||%d|)\r\n", l.Port())
				}
			}
		}
		return wire.Duplex(link.Client, link.Backend, up, down)
	}}
}

func retrieve(ctx context.Context, d upgraders.Data, l upgraders.DataListener, port uint16) {
	defer l.Close()
	c, err := l.Accept(ctx)
	if err != nil {
		return
	}
	b, err := d.DialBackend(ctx, port)
	if err != nil {
		c.Abort()
		return
	}
	if _, err := c.Secure(ctx); err != nil {
		c.Abort()
		b.Abort()
		return
	}
	d.Carry(b, c, func(error) {})
}

// mysql: the backend's greeting holds the nonce of the login, so the dial is
// early; there is no go-ahead; sequence ids are off by one until the login ends.
type mysql struct{}

const mysqlSSL = 0x0800

func mysqlPacket(c *wire.Conn) ([]byte, error) {
	head, err := c.Peek(4)
	if err != nil {
		return nil, err
	}
	return c.Peek(4 + int(head[0]) + int(head[1])<<8 + int(head[2])<<16)
}

func (mysql) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	var greeting []byte
	err := s.Backend(ctx, func(backend *wire.Conn) (err error) {
		greeting, err = mysqlPacket(backend)
		backend.Discard(len(greeting))
		return err
	})
	if err != nil {
		return hangUp("\x09\x00\x00\x00\xff\xd3\x07Gone.", err)
	}
	flags := 5 + bytes.IndexByte(greeting[5:], 0) + 1 + 4 + 8 + 1
	if flags+2 > len(greeting) {
		return upgraders.Handover{}, upgraders.ErrBackend
	}
	binary.LittleEndian.PutUint16(greeting[flags:], binary.LittleEndian.Uint16(greeting[flags:])|mysqlSSL)
	s.Conn.Write(greeting)

	head, err := s.Conn.Peek(4)
	switch {
	case err != nil:
		return upgraders.Handover{}, err
	case string(head) == "\x20\x00\x00\x01":
		if err := s.Conn.ReadFull(make([]byte, 36)); err != nil {
			return upgraders.Handover{}, err
		}
		return upgraders.Handover{Verdict: upgraders.StartTLS, Converse: mysqlLogin}, nil
	case s.Listener.Cleartext: // the response stays in the buffer, and is what the relay begins with
		return upgraders.Handover{Verdict: upgraders.Cleartext}, nil
	}
	return hangUp("\x09\x00\x00\x02\xff\x57\x0cNeeds", upgraders.ErrNeedsTLS)
}

func (mysql) Implicit(*upgraders.Session) upgraders.Handover { return upgraders.Handover{} }

func mysqlLogin(_ context.Context, link *upgraders.Link) error {
	var over atomic.Bool // set before the OK goes out: what comes after it is unshifted
	shift := func(from, to *wire.Conn, by byte, ends func([]byte) bool) func() error {
		return func() error {
			for {
				p, err := mysqlPacket(from)
				if err != nil || over.Load() {
					return err // nothing taken: the relay goes on from here
				}
				p[3] += by
				end := ends(p[4:])
				over.Store(end)
				to.Write(p)
				if from.Discard(len(p)); end {
					return nil
				}
			}
		}
	}
	return wire.Duplex(link.Client, link.Backend,
		shift(link.Client, link.Backend, 0xff, func([]byte) bool { return false }),
		shift(link.Backend, link.Client, 1, func(p []byte) bool { return len(p) > 0 && (p[0] == 0 || p[0] == 0xff) }))
}

// web: HTTP is served, not relayed, and the request that asked for TLS is
// answered inside it. ALPN in such a handshake comes from a client that
// believes it is on HTTPS.
type web struct{}

func (w web) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	var head bytes.Buffer
	for {
		line, err := s.Conn.ReadLine(1024)
		if err != nil {
			return hangUp("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", err)
		}
		fmt.Fprintf(&head, "%s\r\n", line)
		if len(line) == 0 {
			break
		}
	}
	h := upgraders.Handover{Serve: w.serve(head.Bytes())}
	switch {
	case strings.HasPrefix(head.String(), "OPTIONS * ") && strings.Contains(head.String(), "\r\nUpgrade: TLS/1.2\r\n"):
		h.Verdict, h.ALPN = upgraders.StartTLS, upgraders.ALPNForbidden
		h.Reply = []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n")
		h.Injected = []byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
	case s.Listener.Cleartext:
		h.Verdict = upgraders.Cleartext
	default:
		return hangUp("HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade, close\r\n\r\n", upgraders.ErrNeedsTLS)
	}
	return h, nil
}

func (w web) Implicit(*upgraders.Session) upgraders.Handover {
	return upgraders.Handover{Serve: w.serve(nil)}
}

func (web) serve(head []byte) func(context.Context, net.Conn, upgraders.Dialer) error {
	return func(ctx context.Context, client net.Conn, d upgraders.Dialer) error {
		proxy := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: r.In.Host}) },
			Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := d.Dial(ctx, "")
				if err != nil {
					return nil, err
				}
				return c, nil
			}},
		}
		l := &one{conn: &replayed{client, io.MultiReader(bytes.NewReader(head), client)}, done: make(chan struct{})}
		server := &http.Server{Handler: proxy, ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				l.Close()
			}
		}}
		defer context.AfterFunc(ctx, func() { server.Close() })()
		if err := server.Serve(l); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// xmpp: the stream's `to` inside TLS chooses the backend, and must be the one
// of the stream in cleartext. What Accept peeks at is the relay's to pass on.
type xmpp struct{}

// xmppTag peeks at what is there up to and with the end of a tag.
func xmppTag(c *wire.Conn, tag string) (string, error) {
	for {
		if i := bytes.Index(c.Unread(), []byte(tag)); i >= 0 {
			if end := bytes.IndexByte(c.Unread()[i:], '>'); end >= 0 {
				return string(c.Unread()[:i+end+1]), c.Spend()
			}
		}
		if _, err := c.Peek(c.Buffered() + 1); err != nil {
			return "", err
		}
	}
}

func xmppTo(tag string) string {
	_, to, _ := strings.Cut(tag, " to='")
	to, _, _ = strings.Cut(to, "'")
	return to
}

func (xmpp) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	const broken = "<stream:error/></stream:stream>"
	header, err := xmppTag(s.Conn, "<stream:stream")
	if err != nil {
		return hangUp(broken, err)
	}
	s.Conn.Discard(len(header))
	io.WriteString(s.Conn, "<stream:stream><stream:features><starttls/></stream:features>")
	start, err := xmppTag(s.Conn, "<starttls")
	if err != nil {
		return hangUp(broken, err)
	}
	s.Conn.Discard(len(start))
	for s.Conn.Pipelined() { // white space is tolerated; RFC 6120, 5.3.3 forbids it, clients send it
		if b, err := s.Conn.Peek(1); err != nil || !bytes.ContainsAny(b, " \t\r\n") {
			break
		}
		s.Conn.Discard(1)
	}
	return upgraders.Handover{
		Verdict: upgraders.StartTLS, Reply: []byte("<proceed/>"), Injected: []byte(broken),
		Accept: func(_ context.Context, client *wire.Conn) (upgraders.Route, error) {
			again, err := xmppTag(client, "<stream:stream")
			if err == nil && xmppTo(again) != xmppTo(header) {
				io.WriteString(client, broken)
				err = upgraders.ErrSyntax
			}
			return upgraders.Route{Host: xmppTo(again)}, err
		},
	}, nil
}

func (xmpp) Implicit(*upgraders.Session) upgraders.Handover { return upgraders.Handover{} }

// postgres: TLS may come without being asked for, if its ALPN says so; and a
// CancelRequest is no session: it goes to the server that issued the key, or
// to all of them. The upgrader is shared, so the table of keys is its own.
type postgres struct{ keys sync.Map } // key -> Link.Server

func (p *postgres) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	for {
		b, err := s.Conn.Peek(1)
		if err == nil && b[0] == 0x16 {
			return upgraders.Handover{Verdict: upgraders.StartTLS, ALPN: upgraders.ALPNRequired, Accept: p.accept, Converse: p.note}, nil
		}
		if b, err = s.Conn.Peek(8); err != nil {
			return upgraders.Handover{}, err
		}
		if err := s.Conn.Spend(); err != nil {
			return upgraders.Handover{}, err
		}
		switch binary.BigEndian.Uint32(b[4:]) {
		case 80877103: // SSLRequest
			s.Conn.Discard(8)
			return upgraders.Handover{Verdict: upgraders.StartTLS, Reply: []byte("S"), Injected: []byte("E..."), Accept: p.accept, Converse: p.note}, nil
		case 80877104: // GSSENCRequest
			s.Conn.Discard(8)
			s.Conn.Write([]byte("N"))
		case 80877102: // CancelRequest, from a libpq that can't send it in TLS: no session, so no cleartext one either
			return upgraders.Handover{Verdict: upgraders.Cleartext, Accept: p.accept}, nil
		default:
			return hangUp("E...", upgraders.ErrNeedsTLS)
		}
	}
}

func (p *postgres) Implicit(*upgraders.Session) upgraders.Handover {
	return upgraders.Handover{ALPN: upgraders.ALPNRequired, Accept: p.accept, Converse: p.note}
}

func (p *postgres) accept(_ context.Context, client *wire.Conn) (upgraders.Route, error) {
	b, err := client.Peek(16)
	if err != nil || binary.BigEndian.Uint32(b[4:]) != 80877102 {
		return upgraders.Route{}, err // a StartupMessage: the relay's
	}
	request := bytes.Clone(b)
	return upgraders.Route{Serve: func(ctx context.Context, d upgraders.Dialer) error {
		servers := d.Servers()
		if server, ok := p.keys.Load(string(request[8:])); ok {
			servers = []string{server.(string)}
		}
		var failed error
		for _, server := range servers {
			backend, err := d.Dial(ctx, server)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			backend.Write(request)
			backend.Close()
		}
		return failed
	}}, nil
}

func (p *postgres) note(_ context.Context, link *upgraders.Link) error {
	key, err := link.Backend.Peek(5 + 8) // BackendKeyData, as if it came first
	if err == nil {
		p.keys.Store(string(key[5:]), link.Server)
	}
	return err
}

// ldap: packets, not lines, behind a size gate; an operation that goes on in
// cleartext stays in the buffer, and so reaches the backend as it came.
type ldap struct{}

func ldapMessage(c *wire.Conn) ([]byte, error) {
	if err := c.Spend(); err != nil {
		return nil, err
	}
	head, err := c.Peek(2)
	if err != nil {
		return nil, err
	}
	size, octets := int(head[1]), 0
	if size > 0x80 {
		if octets = size - 0x80; octets > 4 {
			return nil, wire.ErrTooLong
		}
		if head, err = c.Peek(2 + octets); err != nil {
			return nil, err
		}
		size = int(binary.BigEndian.Uint32(append(make([]byte, 4-octets, 8), head[2:]...)))
	}
	if head[0] != 0x30 || size > 8<<10 {
		return nil, upgraders.ErrSyntax
	}
	return c.Peek(2 + octets + size)
}

const startTLSOID = "1.3.6.1.4.1.1466.20037"

func (ldap) Upgrade(_ context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	answer := func(op, code byte) []byte {
		return []byte{0x30, 12, 2, 1, 1, op, 7, 10, 1, code, 4, 0, 4, 0}
	}
	for {
		m, err := ldapMessage(s.Conn)
		switch {
		case err != nil: // Notice of Disconnection
			return upgraders.Handover{Reply: []byte{0x30, 12, 2, 1, 0, 0x78, 7, 10, 1, 2, 4, 0, 4, 0}}, err
		case bytes.Contains(m, []byte(startTLSOID)):
			s.Conn.Discard(len(m))
			return upgraders.Handover{Verdict: upgraders.StartTLS, Reply: answer(0x78, 0), Injected: answer(0x78, 1)}, nil
		case s.Listener.Cleartext:
			return upgraders.Handover{Verdict: upgraders.Cleartext}, nil
		}
		s.Conn.Discard(len(m))
		s.Conn.Write(answer(m[5]+1, 13)) // confidentialityRequired
	}
}

func (l ldap) Implicit(*upgraders.Session) upgraders.Handover {
	return upgraders.Handover{Unavailable: func(_ context.Context, client *wire.Conn, _ error) error {
		m, err := ldapMessage(client)
		if err == nil {
			_, err = client.Write([]byte{0x30, 12, 2, 1, m[4], m[5] + 1, 7, 10, 1, 52, 4, 0, 4, 0})
		}
		return err
	}}
}

// TestContract plays the part of each sketch that the contract had to carry.
func TestContract(t *testing.T) {
	greeting := "\x18\x00\x00\x00\x0a8.0\x00\x01\x00\x00\x0012345678\x00\x01\x00\x00\x00\x00\x00"
	sslRequest := "\x20\x00\x00\x01" + strings.Repeat("\x00", 32)
	startTLS := "\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + startTLSOID
	tests := []struct {
		name      string
		upgrader  upgraders.Upgrader
		backend   string // what it says first
		client    string
		cleartext bool
		verdict   upgraders.Verdict
		said      string // by Upgrade
		reply     string // prefix
		pipelined bool   // what the guard finds
		err       error
	}{
		{name: "ftp", upgrader: ftp{}, client: "USER a\r\nauth tls\r\n", verdict: upgraders.StartTLS,
			said: "220 gw.example.org\r\n530 AUTH TLS first\r\n", reply: "234 "},
		{name: "ftp pipelined", upgrader: ftp{}, client: "AUTH TLS\r\nFEAT\r\n", verdict: upgraders.StartTLS,
			said: "220 gw.example.org\r\n", reply: "234 ", pipelined: true},
		{name: "mysql", upgrader: mysql{}, backend: greeting, client: sslRequest + "\x16\x03\x01", verdict: upgraders.StartTLS,
			said: greeting[:23] + "\x08" + greeting[24:], pipelined: true},
		{name: "mysql cleartext refused", upgrader: mysql{}, backend: greeting, client: "\x21\x00\x00\x01", err: upgraders.ErrNeedsTLS,
			said: greeting[:23] + "\x08" + greeting[24:], reply: "\x09\x00\x00\x02\xff\x57\x0c", pipelined: true},
		{name: "http", upgrader: web{}, client: "OPTIONS * HTTP/1.1\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\n",
			verdict: upgraders.StartTLS, reply: "HTTP/1.1 101 "},
		{name: "http cleartext refused", upgrader: web{}, client: "GET / HTTP/1.1\r\n\r\n", reply: "HTTP/1.1 426 ", err: upgraders.ErrNeedsTLS},
		{name: "xmpp", upgrader: xmpp{}, client: "<stream:stream to='example.org'><starttls/>\r\n ", verdict: upgraders.StartTLS,
			said: "<stream:stream><stream:features><starttls/></stream:features>", reply: "<proceed/>"},
		{name: "postgres", upgrader: &postgres{}, client: "\x00\x00\x00\x08\x04\xd2\x16\x30\x00\x00\x00\x08\x04\xd2\x16\x2f",
			verdict: upgraders.StartTLS, said: "N", reply: "S"},
		{name: "postgres direct", upgrader: &postgres{}, client: "\x16\x03\x01", verdict: upgraders.StartTLS, pipelined: true},
		{name: "postgres cancel", upgrader: &postgres{}, client: "\x00\x00\x00\x10\x04\xd2\x16\x2eKEYDATA!", verdict: upgraders.Cleartext, pipelined: true},
		{name: "ldap", upgrader: ldap{}, client: startTLS, verdict: upgraders.StartTLS, reply: "\x30"},
		{name: "ldap cleartext", upgrader: ldap{}, client: "\x30\x05\x02\x01\x01\x42\x00", cleartext: true, verdict: upgraders.Cleartext, pipelined: true},
		{name: "ldap length", upgrader: ldap{}, client: "\x30\x84\x7f\xff\xff\xff", err: upgraders.ErrSyntax, reply: "\x30", pipelined: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := newMemory(tt.client)
			s := &upgraders.Session{
				Conn:     wire.NewConn(client),
				Listener: &upgraders.Listener{Name: "test", Hostname: "gw.example.org", Cleartext: tt.cleartext},
				Backend: func(_ context.Context, hear func(*wire.Conn) error) error {
					return hear(wire.NewConn(newMemory(tt.backend)))
				},
			}
			s.Conn.SetBudget(16<<10, 50)
			h, err := tt.upgrader.Upgrade(t.Context(), s)
			if h.Verdict != tt.verdict || !errors.Is(err, tt.err) || (err != nil) != (tt.err != nil) {
				t.Errorf("verdict %d, error %v; want %d, %v", h.Verdict, err, tt.verdict, tt.err)
			}
			if client.said() != tt.said || !strings.HasPrefix(string(h.Reply), tt.reply) || (tt.reply == "") != (h.Reply == nil) {
				t.Errorf("said %q, then %q; want %q, %q", client.said(), h.Reply, tt.said, tt.reply)
			}
			if (s.Conn.Buffered() > 0) != tt.pipelined {
				t.Errorf("buffered: %q", s.Conn.Unread())
			}
		})
	}
}

// TestCarried plays what comes after the dialogue, where it bends the contract.
func TestCarried(t *testing.T) {
	t.Run("a filter for ever, with data beside it", func(t *testing.T) {
		d := &data{peer: make(chan *dataConn, 1), backend: &dataConn{memory: newMemory("the file")}}
		client, backend := newMemory("PROT P\r\nEPSV\r\n"), newMemory("200 NOOP ok\r\n229 Extended (|||2121|)\r\n")
		peer := &dataConn{memory: newMemory("")}
		d.peer <- peer
		h := ftp{}.Implicit(&upgraders.Session{Data: d})
		if err := h.Converse(t.Context(), link(client, backend)); err != io.EOF {
			t.Error(err)
		}
		if client.said() != "200 Protected\r\n229 Extended (|||40000|)\r\n" || backend.said() != "NOOP\r\nEPSV\r\n" {
			t.Errorf("client got %q, backend got %q", client.said(), backend.said())
		}
		if peer.said() != "the file" || !peer.secured || d.port != 2121 {
			t.Errorf("data: %q, secured %v, from port %d", peer.said(), peer.secured, d.port)
		}
	})
	t.Run("a filter that ends in the middle of the stream", func(t *testing.T) {
		client := newMemory("\x01\x00\x00\x02L")
		backend := newMemory("\x01\x00\x00\x02\x00\x02\x00\x00\x01\x00!")
		l := link(client, backend)
		if err := mysqlLogin(t.Context(), l); err != nil && err != io.EOF {
			t.Error(err)
		}
		if client.said() != "\x01\x00\x00\x03\x00" || string(l.Backend.Unread()) != "\x02\x00\x00\x01\x00!" {
			t.Errorf("client got %q, the relay goes on with %q", client.said(), l.Backend.Unread())
		}
	})
	t.Run("served instead of relayed", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
		defer server.Close()
		client, gate := net.Pipe()
		go func() {
			defer client.Close()
			answer, _ := bufio.NewReader(client).ReadString('\n')
			if answer != "HTTP/1.1 204 No Content\r\n" {
				t.Errorf("client got %q", answer)
			}
		}()
		h := web{}.serve([]byte("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"))
		if err := h(t.Context(), gate, &dialer{servers: []string{server.Listener.Addr().String()}}); err != nil {
			t.Error(err)
		}
	})
	t.Run("routed by the first words inside TLS", func(t *testing.T) {
		s := &upgraders.Session{Conn: wire.NewConn(newMemory("<stream:stream to='a.example.org'><starttls/>"))}
		h, err := xmpp{}.Upgrade(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		client := wire.NewConn(newMemory("<stream:stream to='a.example.org'>"))
		route, err := h.Accept(t.Context(), client)
		if err != nil || route.Host != "a.example.org" || client.Buffered() == 0 {
			t.Errorf("route %+v, error %v, buffered %q", route, err, client.Unread())
		}
		if _, err := h.Accept(t.Context(), wire.NewConn(newMemory("<stream:stream to='b.example.org'>"))); err == nil {
			t.Error("`to` may change across the upgrade")
		}
	})
	t.Run("a key goes to the server that issued it, any other to all", func(t *testing.T) {
		p := &postgres{}
		l := link(newMemory(""), newMemory("K\x00\x00\x00\x0cISSUED12"))
		l.Server = "192.0.2.2:5432"
		if err := p.note(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{"ISSUED12": "192.0.2.2:5432", "unknown!": "192.0.2.1:5432 192.0.2.2:5432"} {
			route, err := p.accept(t.Context(), wire.NewConn(newMemory("\x00\x00\x00\x10\x04\xd2\x16\x2e"+key)))
			if err != nil || route.Serve == nil {
				t.Fatalf("route %+v, error %v", route, err)
			}
			d := &dialer{servers: []string{"192.0.2.1:5432", "192.0.2.2:5432"}}
			if err := route.Serve(t.Context(), d); err != nil || strings.Join(d.dialled, " ") != want {
				t.Errorf("%s went to %v, want %s (error %v)", key, d.dialled, want, err)
			}
		}
	})
}

func link(client, backend net.Conn) *upgraders.Link {
	return &upgraders.Link{Client: wire.NewConn(client), Backend: wire.NewConn(backend)}
}

// A memory is a conn that says what it was given, then ends, and keeps what
// is said to it.
type memory struct {
	in  *strings.Reader
	mu  sync.Mutex
	out bytes.Buffer
}

func newMemory(in string) *memory { return &memory{in: strings.NewReader(in)} }

func (m *memory) Read(p []byte) (int, error) { return m.in.Read(p) }
func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Write(p)
}
func (m *memory) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.String()
}
func (m *memory) Close() error                     { return nil }
func (m *memory) CloseWrite() error                { return nil }
func (m *memory) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (m *memory) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

// A data is the gateway's side of FTP's data connections.
type data struct {
	peer    chan *dataConn
	backend *dataConn
	port    uint16
}

var _ upgraders.Data = (*data)(nil)

func (d *data) Listen(first, _ uint16) (upgraders.DataListener, error) {
	return &dataListener{d.peer, first}, nil
}
func (d *data) Dial(context.Context, uint16) (upgraders.DataConn, error) { return <-d.peer, nil }
func (d *data) DialBackend(_ context.Context, port uint16) (upgraders.DataConn, error) {
	d.port = port
	return d.backend, nil
}
func (d *data) Carry(from, to upgraders.DataConn, over func(error)) {
	_, err := io.Copy(to.(*dataConn), from.(*dataConn))
	over(err)
}

type dataConn struct {
	*memory
	secured bool
}

func (c *dataConn) Secure(context.Context) (bool, error) {
	c.secured = true
	return false, nil
}
func (c *dataConn) Abort() {}

type dataListener struct {
	peer chan *dataConn
	port uint16
}

func (l *dataListener) Accept(context.Context) (upgraders.DataConn, error) { return <-l.peer, nil }
func (l *dataListener) Close() error                                       { return nil }
func (l *dataListener) Port() uint16                                       { return l.port }

// A dialer reaches real servers, and notes which were asked for.
type dialer struct{ servers, dialled []string }

func (d *dialer) Servers() []string { return d.servers }
func (d *dialer) Dial(_ context.Context, server string) (*wire.Conn, error) {
	if d.dialled = append(d.dialled, server); server != "" {
		return wire.NewConn(newMemory("")), nil
	}
	c, err := net.Dial("tcp", d.servers[0])
	return wire.NewConn(c), err
}

// replayed is a conn whose first bytes were read before.
type replayed struct {
	net.Conn
	r io.Reader
}

func (c *replayed) Read(p []byte) (int, error) { return c.r.Read(p) }

// one is a listener that has one conn, and ends when that is closed.
type one struct {
	conn net.Conn
	done chan struct{}
	once sync.Once
}

func (l *one) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *one) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}
func (l *one) Addr() net.Addr { return &net.TCPAddr{} }
