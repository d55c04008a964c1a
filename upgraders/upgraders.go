// Package upgraders is the contract between the gateway and the protocols, and
// nothing else. A protocol knows its own words; it knows nothing of sockets,
// TLS settings, certificates or configuration files. The gateway knows those,
// and no protocol.
//
// The life of a connection, seen from a protocol:
//
//	Upgrade      the cleartext dialogue, until the client asks for TLS
//	             (the gateway: injection guard, go-ahead, handshake)
//	Accept       the first words inside TLS, where they choose the backend
//	             (the gateway: route, dial, PROXY header)
//	Join         the backend's greeting, client facts, replay
//	Converse     the phase in which capabilities are still corrected
//	             (the gateway: opaque relay, half-close, log line)
package upgraders

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// A Protocol describes one protocol to the gateway. It is a value without
// state; New makes what serves a listener.
type Protocol struct {
	Name     string   // as in `openssl s_client -starttls NAME`
	Title    string   // for people: "SMTP"
	Spec     string   // the documents it obeys: "RFC 3207, 5321, 8314"
	Keyword  string   // how a client asks for TLS: "STARTTLS"; empty: implicit TLS only
	Ports    []uint16 // well-known ports on which TLS is asked for
	Implicit []uint16 // well-known ports on which TLS comes first

	// ALPN lists the ids a client may offer; empty: any offer is a mismatch.
	// A client that offers none is always accepted (RFC 7301, 3.2).
	ALPN []string

	// DataALPN lists the ids a client may offer on a data connection, where
	// sessions have such; empty: they have none.
	DataALPN []string

	// ServerFirst is set where the server greets before the client speaks.
	ServerFirst bool

	// Pages is set where the gateway itself is the server (web). There is no
	// route and no backend then; the first byte decides between TLS and
	// cleartext, and Serve answers from Listener.Pages within the time of one
	// dialogue.
	Pages bool

	// IdleTimeout is how long a joined session may be silent in both
	// directions; zero: for ever.
	IdleTimeout time.Duration

	// Hosts is set where a client names the host it wants in the protocol's
	// own words (XMPP's `to`), so that routes may say which.
	Hosts bool

	// CleartextAuth is the default of the listener attribute of that name:
	// whether a session in cleartext may send a password at all.
	CleartextAuth bool

	// Forwards lists the fields of Forward that this protocol can pass on.
	Forwards []string

	// TellsClient is set where every session tells the backend who the client
	// is, in the protocol's own words.
	TellsClient bool

	// Options returns a pointer to the options struct with its defaults set;
	// its fields carry hcl and doc tags and nothing else. Nil: no options.
	Options func() any

	// New makes the upgrader of one listener. options is what Options
	// returned, decoded; an error names the option and what to write instead.
	New func(options any) (Upgrader, error)

	// Probe asks a backend what it offers to a session in TLS. The conn is
	// dialled as such a session would be (PROXY header sent) and is bounded in
	// time and bytes; Probe sends the protocol's own client facts where
	// link.Forward says so and ends the session politely. An error means that
	// the backend does not serve.
	Probe func(ctx context.Context, link *Link) (Capabilities, error)

	// Audit asks a server what a session in TLS must not find out by itself,
	// for `check --live`: does it give the gateway's address what no stranger
	// should have, or keep from clients what they need? The link is one of
	// Probe. Nothing is ever delivered, and no credentials are sent. An error
	// means that the server does not serve; nil: there is nothing to ask.
	Audit func(ctx context.Context, link *Link, told Told) ([]Finding, error)

	// Request asks a backend for TLS in the protocol's own words, for backend
	// TLS and for `sallyport probe`. It returns when the next byte must be the
	// ClientHello, or an error that wraps ErrNotOffered when TLS is refused.
	// host is what a client would name where the protocol has Hosts.
	Request func(ctx context.Context, backend *wire.Conn, host string) error

	// SecureInJoin is set where a session's own words ask the backend for TLS
	// (MySQL: what the client is capable of stands in them): Join says them and
	// calls Link.Secure. Request then serves probes alone.
	SecureInJoin bool

	// Leave takes leave of a backend that Session.Backend has dialled and that
	// will not be joined, where servers hold it against an address to hang up
	// on them. It is called where the backend knows no other address than the
	// gateway's. Nil: it is hung up on.
	Leave func(ctx context.Context, backend *wire.Conn)

	// Greeting stands for the greeting of a backend that was asked for TLS by
	// Request: the real one came in the clear and must not be believed, and
	// Join expects one. Nil where the backend greets again, or never does.
	Greeting []byte
}

// An Upgrader leads one listener's connections from cleartext to TLS. It is
// shared by all of them; state belongs in the Handover's closures.
type Upgrader interface {
	// Upgrade speaks with the client until it asks for TLS, goes on without
	// it, or is turned away. Reads of s.Conn end by the dialogue's budget and
	// deadline; Upgrade answers such an error in the protocol's words and
	// returns it. It writes each answer in one Write, and nothing after a
	// Handover is returned.
	Upgrade(ctx context.Context, s *Session) (Handover, error)

	// Implicit says what follows the handshake of a connection that began
	// with TLS.
	Implicit(s *Session) Handover
}

// A Particular is an Upgrader whose options have a say in what its listener may
// be.
type Particular interface {
	Upgrader

	// Offers reports whether a client may ask for TLS at all.
	Offers() bool

	// Check returns an error if the options do not suit the listener, on which
	// clients may ask for TLS, or begin with it, or either. It says what to
	// write instead.
	Check(l *Listener, asks, begins bool) error
}

// A Verdict is how a dialogue ended. The zero value is the safe one.
type Verdict uint8

const (
	HangUp    Verdict = iota // write Reply, close
	StartTLS                 // guard, write Reply, handshake
	Cleartext                // go on without TLS, for good
)

// An ALPNRule says what a ClientHello may offer beyond Protocol.ALPN.
type ALPNRule uint8

const (
	ALPNOptional  ALPNRule = iota // none is fine
	ALPNRequired                  // none ends the handshake (PostgreSQL's direct TLS)
	ALPNForbidden                 // any id ends the handshake (HTTP Upgrade: Opossum)
)

// A Handover is what the gateway does once the dialogue is over, in field
// order. Nil steps are skipped.
type Handover struct {
	Verdict Verdict

	// Reply is the last cleartext to the client. For StartTLS it is the
	// go-ahead, which the gateway writes after its guard has found nothing
	// pipelined behind the request. A StartTLS without a Reply (MySQL, direct
	// TLS) is for protocols without a go-ahead: what is buffered must then
	// begin a TLS record and belongs to the handshake.
	Reply []byte

	// Injected is what the guard writes instead of Reply when bytes were
	// pipelined behind the request: the protocol's refusal.
	Injected []byte

	// ALPN tightens what the ClientHello may offer.
	ALPN ALPNRule

	// Accept reads or answers what comes between handshake and route, where
	// the first words inside TLS choose the backend (XMPP's `to`) or are no
	// session at all (CancelRequest). Nil: SNI decides. In cleartext it comes
	// at once, and may repeat what the dialogue has learned.
	Accept func(ctx context.Context, client *wire.Conn) (Route, error)

	// Join leads the fresh backend connection to where the client stands:
	// greetings, client facts, replay. An error that wraps ErrTryNext means
	// that this server does not serve and nothing was written to the client.
	Join func(ctx context.Context, link *Link) error

	// Converse is the filtered phase, in both directions at once (see
	// wire.Duplex). Nil makes the rest opaque; io.EOF means that the session
	// ended here; any other error ends it.
	Converse func(ctx context.Context, link *Link) error

	// Serve replaces backend and relay altogether (http, web). The Dialer is
	// nil where there is no backend (Protocol.Pages). When Serve returns,
	// nobody uses client or a conn of the Dialer any more. An error that wraps
	// io.ErrUnexpectedEOF means that what the client was given is cut short:
	// the stream will then not look finished.
	Serve func(ctx context.Context, client net.Conn, d Dialer) error

	// Unavailable tells the client, in the protocol's words and perhaps after
	// reading one command, that no backend can be had. cause is ErrTryNext
	// with the last server's own words, ErrLimit, ErrNoRoute, or a dial error;
	// no backend's address may reach the client.
	Unavailable func(ctx context.Context, client *wire.Conn, cause error) error
}

// A Route is what Accept learned.
type Route struct {
	Host  string                                    // matched against `route { host }`; empty: SNI decides
	Serve func(ctx context.Context, d Dialer) error // what this session is instead of a relay; nil: a relay
}

// A Dialer reaches the servers of the routed backend, PROXY header and backend
// TLS included.
type Dialer interface {
	Servers() []string
	// Dial reaches the named server, or for "" the one that is due. What is
	// dialled shares the session's idle clock, and counts against the server's
	// limit until it is closed. An error wraps ErrNoServer. Dial may be called
	// from any goroutine.
	Dial(ctx context.Context, server string) (*wire.Conn, error)
}

// A Session is one client connection, as an Upgrader sees it.
type Session struct {
	Conn     *wire.Conn     // the client, in cleartext; only for Upgrade
	Client   netip.AddrPort // the client, as the PROXY header said it where that is trusted
	Local    netip.AddrPort // what the client connected to; zero for a unix socket
	Listener *Listener

	// CanTLS reports whether there is a certificate to shake hands with.
	CanTLS func() bool

	// Capabilities is what the backend offers a session in TLS, as Probe
	// returned it, from a cache; nil when that is not known (yet). It waits
	// only for a first answer, and not long.
	Capabilities func(ctx context.Context) Capabilities

	// Routed reports whether a route takes a host that the client names, for
	// protocols with Hosts: whom none takes can be told so before TLS.
	Routed func(host string) bool

	// Suits reports whether a session that is being served may speak of a host
	// that its client names: it has gone through all that the tls of the host's
	// own route demands. Whom no route takes, no route guards.
	Suits func(host string) bool

	// Backend dials now, before the route is chosen; the same conn comes back
	// in Join's Link. hear takes the greeting; where it returns an error that
	// wraps ErrTryNext, the next server is tried. A protocol says in its own
	// words that none serves, and returns the error. For protocols whose
	// backend must speak first (MySQL) and no others.
	Backend func(ctx context.Context, hear func(backend *wire.Conn) error) error

	// Preview is Backend for a host that the client names, reached as a session
	// in cleartext would be. If the session goes on in cleartext, the same conn
	// comes back in Join's Link; if it goes on in TLS, the conn is closed and
	// never heard of again. For protocols in which a session in cleartext needs
	// what only its own backend connection can say (XMPP's stream id).
	Preview func(ctx context.Context, host string, hear func(backend *wire.Conn) error) error

	// Stopping is closed when the gateway begins to stop. Who serves ends its
	// session then where nothing is under way; other sessions end by
	// themselves, or by wire.ErrShutdown.
	Stopping <-chan struct{}

	// Data opens data connections beside the session (FTP).
	Data Data
}

// A Listener holds the facts of a listener that a dialogue needs.
type Listener struct {
	Name          string
	Hostname      string // what the gateway calls itself; never empty
	Cleartext     bool   // a session may go on without TLS
	CleartextAuth bool   // and may then send a password

	// Pages are the gateway's own, for protocols that show them; nil: none.
	Pages http.Handler
}

// Capabilities are the lines a backend announces itself with, in its order and
// without framing: EHLO keywords with their parameters, IMAP atoms.
type Capabilities []string

// A Link is a client joined to a backend.
type Link struct {
	Client   *wire.Conn // nil in a Probe
	Backend  *wire.Conn
	Server   string    // which of Dialer.Servers this is
	Listener *Listener // nil in a Probe
	Security Security
	TLS      *tls.ConnectionState // the client's; nil in cleartext and in a Probe
	Facts    Facts
	Forward  Forward
	// Secure shakes hands with the backend, which Join has asked for TLS, and
	// replaces Backend. Nil where there is nothing to ask for.
	Secure func(ctx context.Context) error
	// PassBinding is set where gateway and backend share key and certificate
	// on both legs, so that `-PLUS` mechanisms may pass.
	PassBinding bool
	// BackendTLS is set where the backend is spoken to in TLS.
	BackendTLS bool
	// Log takes what an operator should know of this session: a setting of
	// the backend to change. Never payload, never credentials.
	Log func(msg string, args ...any)
}

// Facts are the addresses a backend may be told.
type Facts struct {
	Client netip.AddrPort
	Local  netip.AddrPort
	Name   string // what the gateway calls itself
	TTL    int    // hops a forwarded ID may still make
}

// Forward is the `forward` block of a backend: client facts in the protocol's
// own words. Fields a protocol does not list in Forwards are refused by config.
type Forward struct {
	XCLIENT bool   `hcl:"xclient,optional"` // SMTP, LMTP, POP3, ManageSieve
	ID      bool   `hcl:"id,optional"`      // IMAP
	WEBIRC  string `hcl:"webirc,optional"`  // IRC: the password
}

// Security is RFC 7435's honest label of a session.
type Security uint8

const (
	Clear         Security = iota // cleartext
	Encrypted                     // TLS, client not identified
	Authenticated                 // TLS, and we verified a client certificate
)

func (s Security) String() string {
	return [...]string{"cleartext", "encrypted", "authenticated"}[s]
}

// Data opens the data connections of a session whose protocol has them. The
// gateway owns ports, the peer check, TLS and the tickets of the session. Each
// connection carries one stream, once.
type Data interface {
	// Listen opens a port, from first to last or any if both are 0, at the
	// address where the gateway has accepted the session.
	Listen(first, last uint16) (DataListener, error)
	// Dial connects to a port of the client's own address.
	Dial(ctx context.Context, port uint16) (DataConn, error)
	// DialBackend connects to a port of the session's own backend server,
	// whatever address that may name.
	DialBackend(ctx context.Context, port uint16) (DataConn, error)
	// Carry moves what comes from one connection to the other until it ends or
	// breaks, passes that on as what it was, and closes both. over is called
	// once it is known how it went: nil when all of it was delivered.
	Carry(from, to DataConn, over func(error))
}

// A DataListener waits for one data connection.
type DataListener interface {
	io.Closer
	Port() uint16
	// Accept returns the first connection that comes from the control
	// connection's peer, and drops those that don't.
	Accept(ctx context.Context) (DataConn, error)
}

// A DataConn is one side of a data connection.
type DataConn interface {
	// Secure shakes hands: as the TLS server with a client; with a backend as
	// its client, where the control connection to it is in TLS, and else not
	// at all. resumed says that a client came with a ticket of this session.
	Secure(ctx context.Context) (resumed bool, err error)
	// Abort ends the connection as one that was cut, at any time and from any
	// goroutine.
	Abort()
}

// How a dialogue can end badly. The gateway logs the error and counts its
// Reason.
var (
	ErrInjection  = errors.New("bytes pipelined behind the request for TLS")
	ErrProxy      = errors.New("PROXY header refused")
	ErrHTTP       = errors.New("an HTTP request on a port that is not HTTP")
	ErrSyntax     = errors.New("not this protocol")
	ErrTooMany    = errors.New("too many errors")
	ErrEarlyTalk  = errors.New("spoke before the greeting")
	ErrLiteral    = errors.New("a literal before TLS")
	ErrNeedsTLS   = errors.New("went on without the TLS that is required")
	ErrQuit       = errors.New("the client took its leave")
	ErrLimit      = errors.New("a limit is reached")
	ErrNoRoute    = errors.New("no route takes this name")
	ErrTryNext    = errors.New("the backend server refuses service")
	ErrNoServer   = errors.New("no server of the backend can be reached")
	ErrBackend    = errors.New("the backend broke its protocol")
	ErrNotOffered = errors.New("TLS is not offered")
)

// A Refusal is ErrTryNext with the words the backend used.
type Refusal struct{ Reply string }

func (r *Refusal) Error() string { return ErrTryNext.Error() + ": " + r.Reply }
func (r *Refusal) Unwrap() error { return ErrTryNext }
