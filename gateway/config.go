package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

// A Config is everything the gateway serves. Package config makes one from
// HCL; tests and the demo make one from literals. It is not changed once it
// was given to New or Reload.
type Config struct {
	Listeners []*Listener
	Backends  []*Backend
	Resolver  string // "host:port" of the DNS server to ask; empty: the system's
}

// Mode is how TLS begins on a listener.
type Mode string

// The modes of a listener.
const (
	StartTLS Mode = "starttls" // cleartext until the client asks
	Implicit Mode = "implicit" // TLS from the first byte
	Auto     Mode = "auto"     // the first bytes decide
)

// A Listener accepts one protocol on one or more addresses.
type Listener struct {
	Name          string
	Protocol      *upgraders.Protocol
	Upgrader      upgraders.Upgrader
	Addresses     []string // "host:port", ":port", "[::]:port"
	Mode          Mode
	Cleartext     bool          // a session may go on without TLS; default: refuse
	CleartextAuth bool          // and may send a password in it
	Hostname      string        // default: the machine's name
	Certificates  Certificates  // never nil
	StrictSNI     bool          // an unknown name ends the handshake
	AutoWait      time.Duration // Auto: how long to wait for a ClientHello before greeting
	Policy        *Policy
	TLS           *TLS
	Routes        []*Route // in order; the first match wins; at least one

	// Challenges answers authorities that ask, in a connection that begins
	// with TLS, whether a name leads here (RFC 8737); nil: nobody does.
	Challenges Challenger

	// Pages are what a listener shows whose protocol has pages instead of
	// routes; nil: none.
	Pages http.Handler
}

// A Challenger has the certificates that prove to an authority that a name
// leads here.
type Challenger interface {
	// ChallengeCertificate returns the certificate for a hello that offers
	// acme-tls/1 and nothing else, or an error where nobody is to ask for its
	// name now. It may block for as long as the hello's context lasts.
	ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// A Route sends sessions to a backend.
type Route struct {
	SNI     []string // exact names or one-label wildcards; none matches every session
	Host    []string // the same for a name in the protocol's own words (XMPP's `to`)
	TLS     *TLS     // nil: the listener's
	Backend *Backend
}

// Certificates chooses among certificates that are in memory. It is called in
// handshakes and must not block.
type Certificates interface {
	// Certificate returns the certificate for a hello. covered is false where
	// no certificate has the name that the client asked for and the default
	// is returned.
	Certificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, covered bool, err error)
	// Ready returns nil when there is a certificate to serve, else why not.
	Ready() error
}

// TLS says how sessions are encrypted. The zero value is TLS 1.2 and up with
// forward secrecy, X25519MLKEM768 preferred, no client certificate.
type TLS struct {
	Name       string
	MinVersion uint16      // 0: tls.VersionTLS12
	ClientAuth *ClientAuth // nil: clients are not asked
	Tickets    TicketRing  // nil: ticket keys are in memory only
}

// ClientAuth asks clients for a certificate.
type ClientAuth struct {
	Require bool // else: ask, and label the session by what came
	CAs     *x509.CertPool
	// Identity changes whenever the CAs or the mode do, so that no ticket
	// outlives the policy it was issued under: a digest of them.
	Identity string
}

// A Policy holds the limits and timeouts of a listener. NewPolicy has the
// defaults; zero means none only where a field says so.
type Policy struct {
	Name             string
	HandshakeTimeout time.Duration
	IdleTimeout      time.Duration // 0: the protocol's own; negative: none
	StallTimeout     time.Duration // a peer that takes no bytes
	Keepalive        time.Duration // TCP keep-alive interval; negative: off
	DrainTimeout     time.Duration
	Dialogue         Dialogue
	Limits           Limits
	ProxyFrom        []netip.Prefix // PROXY header required from these, refused from others
}

// Dialogue bounds everything before TLS, in all.
type Dialogue struct {
	Timeout  time.Duration
	Bytes    int
	Commands int
}

// Limits bounds what a listener carries at a time. Zero means no limit.
type Limits struct {
	Connections  int
	Pending      int // not yet joined to a backend
	PerIP        int // IPv6 by /64
	PendingPerIP int
	RatePerIP    float64 // new connections a second; bursts of one second's worth
}

// NewPolicy returns the defaults, which docs/config.md shows.
func NewPolicy() *Policy {
	return &Policy{
		Name:             "default",
		HandshakeTimeout: 10 * time.Second,
		StallTimeout:     5 * time.Minute,
		Keepalive:        2 * time.Minute,
		DrainTimeout:     time.Hour,
		Dialogue:         Dialogue{Timeout: 30 * time.Second, Bytes: 16 << 10, Commands: 50},
		Limits:           Limits{Connections: 20000, Pending: 2000, PerIP: 1000, PendingPerIP: 50, RatePerIP: 20},
	}
}

// Balance is how the servers of a backend share sessions.
type Balance string

// The ways to share.
const (
	RoundRobin Balance = "round_robin"
	LeastConn  Balance = "least_conn"
	Source     Balance = "source"
)

// Send is the PROXY header a backend gets.
type Send string

// The headers.
const (
	SendNone    Send = "none"
	SendProxyV1 Send = "proxy-v1"
	SendProxyV2 Send = "proxy-v2" // with SSL, ALPN, authority TLVs
)

// A Backend is a set of equal servers. Routes share it by pointer.
type Backend struct {
	Name           string
	Servers        []Server
	Balance        Balance // "": RoundRobin
	Send           Send    // "": SendNone
	Forward        upgraders.Forward
	TLS            *BackendTLS // nil: cleartext
	ConnectTimeout time.Duration
	Resolve        time.Duration // how long a looked-up name is good
	MaxConnections int           // in all; 0: no limit
	Probe          *Probe        // nil: capabilities are learned when first needed
}

// A Server is one address of a backend.
type Server struct {
	Address        string // "host:port" or "unix:/path"
	Weight         int    // 0: 1
	Backup         bool
	MaxConnections int
}

// A Probe asks a backend at intervals.
type Probe struct{ Interval time.Duration }

// BackendTLS encrypts the leg to a backend.
type BackendTLS struct {
	Mode        Mode           // StartTLS or Implicit
	CAs         *x509.CertPool // nil: the system's
	ServerName  string
	Insecure    bool // verify = "none", spelled out
	PassBinding bool
}
