package http

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/onehttp"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	// keepBackend is how long the backend's connection waits for the client's
	// next request. Old servers have few to give.
	keepBackend = 5 * time.Second

	// expectTime is how long a backend may take to ask for a body, before it
	// gets it unasked (RFC 9110, 10.1.1).
	expectTime = 5 * time.Second

	// maxBackendHead bounds the head of a backend's answer.
	maxBackendHead = 64 << 10
)

// A door is how a session came in.
type door uint8

const (
	inClear   door = iota // without TLS, for good
	overTLS               // by RFC 2817
	fromStart             // TLS came first
)

// serving is what follows the dialogue: one passage a session.
func (u *upgrader) serving(s *upgraders.Session, in door) upgraders.Handover {
	return upgraders.Handover{
		Serve: func(ctx context.Context, client net.Conn, d upgraders.Dialer) error {
			p := &passage{
				door:       in,
				hostname:   s.Listener.Hostname,
				client:     s.Client,
				refuseAuth: in == inClear && !s.Listener.CleartextAuth,
				suits:      s.Suits,
				dialer:     d,
			}
			if in == fromStart {
				p.hsts = u.opts.HSTS
			}
			return p.run(ctx, client.(*wire.Conn), s.Stopping)
		},
		Unavailable: func(_ context.Context, client *wire.Conn, _ error) error {
			// Nobody is routed here, whatever is asked for.
			_, err := client.Write(unavailable)
			return err
		},
	}
}

// A passage serves one client, from one backend. Its connections to the
// backend are its own: their PROXY header, and whatever the backend makes of a
// connection, is about this client.
type passage struct {
	door       door
	hostname   string
	client     netip.AddrPort
	hsts       string
	refuseAuth bool
	suits      func(host string) bool
	dialer     upgraders.Dialer
	proxy      *httputil.ReverseProxy
	upload     *upload // of the request in hand; nil: it has no body

	mu  sync.Mutex
	err error // what an operator should know, though the client was answered
	cut bool  // what the client got is not all of it
}

// run serves the client until one of both has enough.
func (p *passage) run(ctx context.Context, client *wire.Conn, stopping <-chan struct{}) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
		Protocols:              protocols,
		DisableCompression:     true,
		IdleConnTimeout:        keepBackend,
		ExpectContinueTimeout:  expectTime,
		MaxResponseHeaderBytes: maxBackendHead,
	}
	defer transport.CloseIdleConnections()
	p.proxy = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      heeding{transport},
		ModifyResponse: p.modify,
		ErrorHandler:   p.failed,
		FlushInterval:  -1,
		ErrorLog:       log.New(io.Discard, "", 0), // what is worth telling is returned
	}
	if p.door == overTLS {
		// RFC 2817, 3.2: the answer to the request that asked for TLS comes
		// in TLS. What was said before it is forgotten, so this is a request
		// of our own to the same effect, which the backend answers.
		host := p.hostname
		if t, ok := client.Conn.(interface{ ConnectionState() tls.ConnectionState }); ok && t.ConnectionState().ServerName != "" {
			host = t.ConnectionState().ServerName
		}
		client.Putback([]byte(forNothing(host)))
	}
	return p.outcome(onehttp.Serve(ctx, client, http.HandlerFunc(p.serve), stopping))
}

// outcome puts together how the session ended.
func (p *passage) outcome(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == onehttp.ErrCutShort: // and nothing is wrong with the client
		return fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
	case err != nil:
		return err
	case p.cut:
		return fmt.Errorf("%w: %w", p.err, io.ErrUnexpectedEOF)
	}
	return p.err
}

// note keeps the first thing that an operator should know.
func (p *passage) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

// dial reaches the backend. One that was asked for TLS (RFC 2817) still owes
// the answer to that; in its place stands the 101 that Request took.
func (p *passage) dial(ctx context.Context) (net.Conn, error) {
	c, err := p.dialer.Dial(ctx, "")
	if err != nil {
		return nil, err
	}
	if err := takeOwed(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// serve answers one request.
func (p *passage) serve(w http.ResponseWriter, r *http.Request) {
	// The backend may answer before it has the body, and the client may wait
	// for that.
	http.NewResponseController(w).EnableFullDuplex()
	p.upload = nil
	w = &writer{w, p, r.ProtoAtLeast(1, 1)}
	if p.refuseAuth && r.Header.Get("Authorization") != "" {
		p.note(upgraders.ErrNeedsTLS)
		refuse(w, http.StatusForbidden, "TLS is required to log in.")
		return
	}
	if !p.suits(strings.TrimSuffix(hostOf(cmp.Or(r.Host, p.hostname)), ".")) {
		// RFC 9110, 7.4. The TLS of that host's route may ask for a client
		// certificate, and the backend may be the same.
		p.note(errMisdirected)
		refuse(w, http.StatusMisdirectedRequest, "This connection is not for that host.")
		return
	}
	p.proxy.ServeHTTP(w, r)
}

var errMisdirected = fmt.Errorf("%w: a request for a host whose tls is not that of the SNI's route", upgraders.ErrNoRoute)

// hostOf is a Host without its port.
func hostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return host
}

// A writer puts what is ours into the head of an answer.
type writer struct {
	http.ResponseWriter
	p       *passage
	interim bool // the client knows of answers before the last
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	switch {
	case status == http.StatusContinue:
		return // net/http says so itself, to who expects it, when the body is read
	case status < 200 && !w.interim:
		return // RFC 9110, 15.2: HTTP/1.0 would take it for the answer
	}
	h := w.Header()
	if status >= 200 {
		if _, ok := h["Content-Type"]; !ok {
			h["Content-Type"] = nil // net/http would guess
		}
		if w.p.hsts != "" {
			h.Set("Strict-Transport-Security", w.p.hsts)
		}
		if u := w.p.upload; u != nil && !u.ended.Load() {
			h.Set("Connection", "close") // the rest of the body may never be read
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// refuse is an answer of the gateway's inside a session, and its last.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Connection", "close")
	http.Error(w, text, status)
}

// rewrite makes the backend's request of the client's. ReverseProxy has taken
// out what is between two hops only (RFC 9110, 7.6.1), and what a client names
// in Connection; so it cannot name what is set here.
func (p *passage) rewrite(r *httputil.ProxyRequest) {
	out := r.Out
	out.URL.Scheme, out.URL.Host = "http", "backend" // the dialer knows better
	out.URL.RawQuery = r.In.URL.RawQuery             // what is not understood here may be there
	if out.Host == "" {
		out.Host = p.hostname // HTTP/1.0 may come without
	}
	for name := range out.Header {
		if untold(name) {
			delete(out.Header, name)
		}
	}
	if !isWebSocket(r.In) {
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	p.tell(out.Header, out.Host)
	// RFC 9110, 7.6.3: a gateway names itself, and the version it was spoken
	// to in.
	out.Header.Add("Via", fmt.Sprintf("%d.%d sallyport", r.In.ProtoMajor, r.In.ProtoMinor))
	if out.Body != nil {
		p.upload = &upload{ReadCloser: out.Body, in: r.In, trailers: trailers(r.In)}
		out.Body, out.Trailer = p.upload, p.upload.trailers
	}
}

// tell sets what the backend learns of the client.
func (p *passage) tell(h http.Header, host string) {
	proto, node := "http", "unknown" // RFC 7239, 6.2
	if p.door != inClear {
		proto = "https"
	}
	if a := p.client.Addr(); a.IsValid() {
		a = a.WithZone("")
		h.Set("X-Forwarded-For", a.String())
		if node = a.String(); a.Is6() {
			node = `"[` + node + `]"` // RFC 7239, 6
		}
	}
	h.Set("X-Forwarded-Proto", proto)
	h.Set("X-Forwarded-Host", host)
	h.Set("Forwarded", fmt.Sprintf(`for=%s;host="%s";proto=%s`, node, host, proto))
}

// untold reports whether a field is one by which a proxy tells a backend what
// it knows, and so must not come from a client. Servers that make variables of
// fields (CGI, WSGI) turn some or all that is no letter or digit into _, so it
// is all the same here.
func untold(name string) bool {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r | 0x20
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return '-'
	}, name)
	return slices.ContainsFunc(clientFactsOf, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) || slices.Contains(clientFacts, name)
}

var clientFactsOf = []string{"x-forwarded", "proxy", "x-ssl", "x-client-cert"}

var clientFacts = []string{
	"forwarded", "client-ip", "x-real-ip", "x-remote-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip",
	"x-original-forwarded-for", "x-original-host", "x-host", "x-scheme", "x-url-scheme", "front-end-https",
	"client-cert", "client-cert-chain", // RFC 9440, 2.4
	"http2-settings",
}

// isWebSocket reports whether a request is one for the only protocol that a
// backend may be asked to switch to (RFC 6455, 4.1). An upgrade to h2c would
// be a way past everything that is done here to requests.
func isWebSocket(r *http.Request) bool {
	upgrade := r.Header.Values("Upgrade")
	return r.ProtoAtLeast(1, 1) && r.Method == http.MethodGet && r.ContentLength == 0 && len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket")
}

// trailers are those that the client has announced and the backend may have:
// none that would be told from a header by its place only (RFC 9110, 6.5.1).
func trailers(in *http.Request) (announced http.Header) {
	for name := range in.Trailer {
		if untold(name) || slices.Contains(neverTrailers, name) {
			continue
		}
		if announced == nil {
			announced = http.Header{}
		}
		announced[name] = nil
	}
	return announced
}

var neverTrailers = []string{
	"Authorization", "Connection", "Content-Encoding", "Content-Range", "Content-Type", "Cookie", "Expect", "Host", "Keep-Alive", "Te", "Upgrade", "Via",
}

// An upload is the body of a request; at its end its trailers are complete.
type upload struct {
	io.ReadCloser
	in       *http.Request
	trailers http.Header
	ended    atomic.Bool
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range u.trailers {
			u.trailers[name] = u.in.Trailer[name]
		}
		u.ended.Store(true)
	}
	return n, err
}

// heeding is a transport that heeds what a backend says for one hop only, which
// is taken out before modify sees an answer.
type heeding struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t heeding) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.Transport.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusUpgradeRequired && strings.Contains(strings.ToUpper(strings.Join(res.Header.Values("Upgrade"), ",")), "TLS/") {
		// It asks for the TLS that has ended here, and a client that obeys
		// would come again for ever.
		res.Body.Close()
		return nil, fmt.Errorf("%w: it asks for TLS itself (426): turn that off there, or give the backend a block tls", upgraders.ErrBackend)
	}
	return res, err
}

// modify corrects what the backend answers.
func (p *passage) modify(res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusUnauthorized && p.refuseAuth:
		p.note(upgraders.ErrNeedsTLS)
		res.Body.Close()
		res.Status, res.StatusCode, res.Body, res.ContentLength = "", http.StatusForbidden, http.NoBody, 0
		res.Header = http.Header{"Content-Length": {"0"}}
	case res.StatusCode == http.StatusSwitchingProtocols:
		if body, ok := res.Body.(io.ReadWriteCloser); ok {
			res.Body = &tunnel{body, p}
		}
	}
	if p.door != fromStart {
		// RFC 6797, 7.2: never in cleartext. Who came by an upgrade believes
		// to be on http.
		res.Header.Del("Strict-Transport-Security")
	}
	return nil
}

// failed answers for a backend that did not.
func (p *passage) failed(w http.ResponseWriter, r *http.Request, err error) {
	broken := onehttp.Broken(r.Context())
	switch {
	case errors.Is(err, upgraders.ErrNoServer):
		p.note(err)
		refuse(w, http.StatusServiceUnavailable, "The server cannot be reached; try again later.")
	case errors.Is(broken, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		p.note(err)
		refuse(w, http.StatusGatewayTimeout, "The server does not answer.")
	case broken != nil: // the body broke the rules, or nobody is there any more
		refuse(w, http.StatusBadRequest, "Bad Request")
	default:
		// As text only: what the client gets is whole.
		p.note(fmt.Errorf("%w: %s", upgraders.ErrBackend, strings.TrimPrefix(err.Error(), upgraders.ErrBackend.Error()+": ")))
		refuse(w, http.StatusBadGateway, "The server gave no answer.")
	}
}

// A tunnel is the backend's side of a WebSocket.
type tunnel struct {
	io.ReadWriteCloser
	p *passage
}

// Read implements io.Reader. What breaks must not look finished.
func (t *tunnel) Read(b []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(b)
	switch {
	case err == nil, err == io.EOF, errors.Is(err, net.ErrClosed):
	case errors.Is(err, os.ErrDeadlineExceeded):
		t.p.note(err)
	default:
		t.p.note(fmt.Errorf("%w: %v", upgraders.ErrBackend, err))
		t.p.mu.Lock()
		t.p.cut = true
		t.p.mu.Unlock()
	}
	return n, err
}

// CloseWrite passes the client's end on.
func (t *tunnel) CloseWrite() error {
	if cw, ok := t.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.New("connection has no CloseWrite")
}
