// Package acme has certificates issued and renewed by an authority that speaks
// ACME (RFC 8555). Names are proved by tls-alpn-01 (RFC 8737), http-01 or, for
// wildcards and for machines that nobody can reach, dns-01.
//
// An Authority is one account at one directory, and a Source one certificate
// that comes from there. The loop (keep.go), the schedule, the store and what
// is checked before anything is served are the same for both engines that talk
// to authorities: autocert.go and advanced.go.
//
// No handshake waits for any of this: it reads what is in memory.
package acme

import (
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/store"
)

// The challenges by which names are proved (RFC 8555, 8; RFC 8737).
const (
	TLSALPN01 = "tls-alpn-01"
	HTTP01    = "http-01"
	DNS01     = "dns-01"
)

// ALPN is the protocol of tls-alpn-01 (RFC 8737, 6.2).
const ALPN = "acme-tls/1"

// Config says which authority, and who we are there.
type Config struct {
	Name      string // label in the configuration
	Directory string // URL (RFC 8555, 7.1.1)
	Email     string // where the authority can reach the operator; "": nowhere

	// AcceptTOS says that the operator agrees to the authority's terms of
	// service. Nothing is asked of the authority without it.
	AcceptTOS bool

	CAs             *x509.CertPool   // trusted for the directory itself; nil: the system's
	ExternalAccount *ExternalAccount // nil: none
	Challenges      []string         // those that may be used; nil: TLSALPN01 and HTTP01

	Advanced bool   // acmez is the engine, not autocert
	Profile  string // what to ask for, with Advanced; "": the authority's default
	DNS      DNS    // who publishes what dns-01 needs, with Advanced; nil: nobody

	Store store.Store
}

// ExternalAccount is a key that an authority gave to its customer out of band
// (RFC 8555, 7.3.4).
type ExternalAccount struct {
	KeyID string
	HMAC  []byte
}

// Order is what a certificate is to be.
type Order struct {
	Label string   // in the configuration
	Names []string // DNS names; the first is the certificate's name for people

	// Bootstrap has a self-signed certificate served until the first one is
	// issued.
	Bootstrap bool

	// Rollover has each renewal make a new key. Else the key stays, and with
	// it TLSA records that pin it (RFC 7671, 5.1).
	Rollover bool

	KeyType string // P256 or P384; "": P256
}

// The kinds of keys.
const (
	P256 = "p256"
	P384 = "p384"
)

// An Authority has certificates issued.
type Authority struct {
	cfg        Config
	client     *http.Client
	engine     engine
	challenges *challenges
	now        func() time.Time
	poll       time.Duration // of the store

	orders  chan struct{} // holds a value for each that is made at the moment
	mu      sync.Mutex
	sources map[string]bool // names whose challenges are answered
}

// New returns an Authority. It touches neither network nor store.
func New(cfg Config) *Authority {
	if cfg.Challenges == nil {
		cfg.Challenges = []string{TLSALPN01, HTTP01}
	}
	a := &Authority{cfg: cfg, client: newClient(cfg), now: time.Now, poll: storePoll, orders: make(chan struct{}, maxOrders), sources: make(map[string]bool)}
	a.challenges = &challenges{store: cfg.Store, now: func() time.Time { return a.now() }}
	a.engine = newEngine(cfg, a.client, a.challenges)
	return a
}

// Name returns the label of the authority.
func (a *Authority) Name() string { return a.cfg.Name }

// Made reports whether New, given this, made an authority like this one. A
// reload keeps that then, and what is going on there.
func (a *Authority) Made(cfg Config) bool {
	if cfg.Challenges == nil {
		cfg.Challenges = []string{TLSALPN01, HTTP01}
	}
	mine := a.cfg
	sameCAs := mine.CAs == cfg.CAs || mine.CAs != nil && cfg.CAs != nil && mine.CAs.Equal(cfg.CAs)
	sameStore := mine.Store.String() == cfg.Store.String()
	mine.CAs, cfg.CAs, mine.Store, cfg.Store = nil, nil, nil, nil
	return sameCAs && sameStore && reflect.DeepEqual(mine, cfg)
}

// Source returns the source of a certificate, which holds none until its Load
// or Keep. It touches neither network nor store.
func (a *Authority) Source(o Order) *Source {
	o = o.normal()
	a.mu.Lock()
	for _, name := range o.Names {
		a.sources[name], a.sources[serverName(name)] = true, true
	}
	a.mu.Unlock()
	s := &Source{
		authority: a,
		order:     o,
		slot:      slotOf(a.cfg, o),
		busy:      make(chan struct{}, 1),
		wake:      make(chan struct{}, 1),
		tries:     make(map[string]uint64),
		log:       slog.New(slog.DiscardHandler),
	}
	for _, result := range Results() {
		s.tries[result] = 0 // so that a rate is right from the first try on
	}
	s.renewStandIn()
	return s
}

// normal returns an order in the one form in which orders are compared.
func (o Order) normal() Order {
	names := make([]string, len(o.Names))
	for i, name := range o.Names {
		names[i] = strings.ToLower(name)
	}
	o.Names = names
	if o.KeyType == "" {
		o.KeyType = P256
	}
	return o
}

// serves reports whether a name is one of those that certificates are ordered
// for. Nobody else's challenges are looked for.
func (a *Authority) serves(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sources[strings.ToLower(name)]
}

// maxOrders is how many orders are made at the same time. Authorities count
// requests, too, and a gateway may have hundreds of certificates.
const maxOrders = 4

// begin waits until there are not too many orders.
func (a *Authority) begin(ctx context.Context) (end func(), err error) {
	select {
	case a.orders <- struct{}{}:
		return func() { <-a.orders }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An engine has a certificate issued: one order, proved by one kind of
// challenge.
type engine interface {
	obtain(ctx context.Context, o order) (chain [][]byte, err error)
}

// A follower is an engine that can tell when an authority would have a
// certificate renewed (RFC 9773). It calls tell, with the zero time for no
// advice, until ctx ends or there is nothing to follow.
type follower interface {
	follow(ctx context.Context, log *slog.Logger, leaf *x509.Certificate, tell func(at time.Time))
}

func newEngine(cfg Config, client *http.Client, c *challenges) engine {
	if cfg.Advanced {
		return &advancedEngine{cfg: cfg, client: client, challenges: c}
	}
	return &autocertEngine{cfg: cfg, client: client, challenges: c}
}

// An order is one try to have a certificate issued.
type order struct {
	names     []string
	key       crypto.Signer     // of the certificate; the store has it already
	account   crypto.Signer     // of the account; likewise
	challenge string            // by which names are to be proved, and no other
	replaces  *x509.Certificate // nil for none
	log       *slog.Logger
}

var _ certs.Source = (*Source)(nil)
