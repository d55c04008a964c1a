package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
)

// An advancedEngine talks to an authority by acmez, which knows several names
// in one certificate, wildcards, profiles, and which certificate an order
// replaces.
type advancedEngine struct {
	cfg        Config
	client     *http.Client
	challenges *challenges
}

var (
	_ engine   = (*advancedEngine)(nil)
	_ follower = (*advancedEngine)(nil)
)

// follow asks the authority when it would have a certificate renewed.
func (e *advancedEngine) follow(ctx context.Context, log *slog.Logger, leaf *x509.Certificate, tell func(at time.Time)) {
	(&adviser{client: e.client, directory: e.cfg.Directory, log: log}).follow(ctx, leaf, tell)
}

func (e *advancedEngine) obtain(ctx context.Context, o order) (chain [][]byte, err error) {
	solvers, err := e.solvers(o)
	if err != nil {
		return nil, err
	}
	w := &witness{next: e.client.Transport, solvers: solvers}
	if err := w.look(ctx, e.cfg.Directory); err != nil {
		return nil, err
	}
	if profiles := w.directory.Meta.Profiles; e.cfg.Profile != "" && profiles[e.cfg.Profile] == "" {
		known := slices.Sorted(maps.Keys(profiles))
		if known == nil {
			return nil, fmt.Errorf("%w: it has no profiles: leave profile out", ErrRefused)
		}
		return nil, fmt.Errorf("%w: it has no profile %q: write one of %s", ErrRefused, e.cfg.Profile, clean(strings.Join(known, ", ")))
	}
	c := &acmez.Client{
		Client: &acme.Client{
			Directory:    w.url,
			HTTPClient:   &http.Client{Transport: w},
			UserAgent:    "sallyport",
			PollInterval: 500 * time.Millisecond,
		},
		ChallengeSolvers: solvers,
	}
	chain, err = e.order(ctx, c, w, o)
	if err != nil {
		return nil, w.explain(ctx, err)
	}
	return chain, nil
}

func (e *advancedEngine) order(ctx context.Context, c *acmez.Client, w *witness, o order) (chain [][]byte, err error) {
	account, err := e.account(ctx, c.Client, o.account)
	if err != nil {
		return nil, err
	}
	csr, err := acmez.NewCSR(o.key, o.names)
	if err != nil {
		return nil, err
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, err
	}
	params.Profile = e.cfg.Profile
	// RFC 9773, 5: who cannot say when to renew does not know what it replaces.
	if w.directory.RenewalInfo != "" {
		params.Replaces = o.replaces
	}
	chains, err := c.ObtainCertificate(ctx, params)
	if refused := (acme.Problem{}); params.Replaces != nil && errors.As(err, &refused) && !w.hasOrdered() && refused.Type != acme.ProblemTypeRateLimited {
		// An authority that has lost its memory, or the certificate of another
		// one: what it replaces is good to know, and not needed.
		params.Replaces = nil
		chains, err = c.ObtainCertificate(ctx, params)
	}
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, fmt.Errorf("%w: no certificate came", ErrUnusable)
	}
	for rest := chains[0].ChainPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain, nil
		}
		chain = append(chain, block.Bytes)
	}
}

// account finds the account of a key, or makes it. It is asked for each time,
// so that nothing but the key has to be kept (RFC 8555, 7.3.1).
func (e *advancedEngine) account(ctx context.Context, c *acme.Client, key crypto.Signer) (acme.Account, error) {
	var contact []string
	if e.cfg.Email != "" {
		contact = []string{"mailto:" + e.cfg.Email}
	}
	found, err := c.GetAccount(ctx, acme.Account{PrivateKey: key})
	missing := acme.Problem{}
	switch {
	case errors.As(err, &missing) && missing.Type == acme.ProblemTypeAccountDoesNotExist:
		mine := acme.Account{PrivateKey: key, Contact: contact, TermsOfServiceAgreed: e.cfg.AcceptTOS}
		if x := e.cfg.ExternalAccount; x != nil {
			eab := acme.EAB{KeyID: x.KeyID, MACKey: base64.RawURLEncoding.EncodeToString(x.HMAC)}
			if err := mine.SetExternalAccountBinding(ctx, c, eab); err != nil {
				return mine, err
			}
		}
		return c.NewAccount(ctx, mine)
	case err != nil:
		return found, err
	case found.Status != acme.StatusValid:
		return found, fmt.Errorf("%w: the account is %s there: have another one made by removing its key from the store", ErrRefused, clean(found.Status))
	case !slices.Equal(found.Contact, contact) && contact != nil:
		changed, err := c.UpdateAccount(ctx, acme.Account{PrivateKey: key, Location: found.Location, Contact: contact})
		if err != nil {
			return found, err
		}
		found.Contact = changed.Contact
	}
	return found, nil
}

// solvers returns one for the order's kind of challenge, and one for names that
// it cannot prove: wildcards are proved by dns-01, and addresses never are.
func (e *advancedEngine) solvers(o order) (map[string]acmez.Solver, error) {
	kinds := make(map[string]acmez.Solver)
	for _, name := range o.names {
		kind := o.challenge
		_, err := netip.ParseAddr(name)
		switch i := slices.IndexFunc(e.cfg.Challenges, func(c string) bool { return c != DNS01 }); {
		case strings.HasPrefix(name, "*."):
			kind = DNS01
		case err == nil && kind == DNS01 && i >= 0:
			kind = e.cfg.Challenges[i]
		}
		switch {
		case kind == DNS01 && e.cfg.DNS == nil:
			return nil, fmt.Errorf("%w: %s is proved by dns-01, and nobody publishes for that: write a block dns { … }", ErrRefused, name)
		case kind == DNS01:
			kinds[kind] = &dnsSolver{dns: e.cfg.DNS, log: o.log}
		case kind == HTTP01, kind == TLSALPN01:
			kinds[kind] = &webSolver{challenges: e.challenges}
		}
	}
	return kinds, nil
}

// Revoke has the authority revoke a certificate, which its own key asks for
// (RFC 8555, 7.6). reason is one of RFC 5280, 5.3.1.
func (a *Authority) Revoke(ctx context.Context, cert *tls.Certificate, reason int) error {
	w := &witness{next: a.client.Transport}
	if err := w.look(ctx, a.cfg.Directory); err != nil {
		return err
	}
	c := &acme.Client{
		Directory:  w.url,
		HTTPClient: &http.Client{Transport: w},
		UserAgent:  "sallyport",
	}
	if err := c.RevokeCertificate(ctx, acme.Account{}, cert.Leaf, cert.PrivateKey.(crypto.Signer), reason); err != nil {
		return w.explain(ctx, err)
	}
	return nil
}

// A webSolver answers challenges on the gateway's own listeners.
type webSolver struct {
	challenges *challenges
	removes    sync.Map // by token: func()
}

var _ acmez.Solver = (*webSolver)(nil)

func (s *webSolver) Present(ctx context.Context, c acme.Challenge) error {
	if c.Type == HTTP01 {
		s.removes.Store(c.Token, s.challenges.presentResponse(ctx, c.Identifier.Value, c.Token, c.KeyAuthorization))
		return nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return err
	}
	remove, err := s.challenges.presentCertificate(ctx, serverName(c.Identifier.Value), cert)
	if err == nil {
		s.removes.Store(c.Token, remove)
	}
	return err
}

func (s *webSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	if remove, ok := s.removes.LoadAndDelete(c.Token); ok {
		remove.(func())()
	}
	return nil
}

// A dnsSolver has records published.
type dnsSolver struct {
	dns     DNS
	log     *slog.Logger
	records sync.Map // by token: *Record
}

var (
	_ acmez.Solver = (*dnsSolver)(nil)
	_ acmez.Waiter = (*dnsSolver)(nil)
)

func (s *dnsSolver) Present(ctx context.Context, c acme.Challenge) error {
	r, err := s.dns.Publish(ctx, c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
	if r != nil {
		s.records.Store(c.Token, r)
	}
	return publishing(err)
}

// Wait comes after all names were presented.
func (s *dnsSolver) Wait(ctx context.Context, c acme.Challenge) error {
	if r, ok := s.records.Load(c.Token); ok {
		return publishing(r.(*Record).Wait(ctx))
	}
	return nil
}

// CleanUp comes even where ctx has ended.
func (s *dnsSolver) CleanUp(ctx context.Context, c acme.Challenge) error {
	r, ok := s.records.LoadAndDelete(c.Token)
	if !ok {
		return nil
	}
	err := r.(*Record).Remove(context.WithoutCancel(ctx))
	if err != nil {
		s.log.Warn("a TXT record may be left behind, remove it", "name", bare(r.(*Record).name), "value", r.(*Record).value, "error", err)
	}
	return err
}

// A dnsError is why a record could not be published, or taken away.
type dnsError struct{ error }

func (e *dnsError) Error() string   { return ErrDNS.Error() + ": " + e.error.Error() }
func (e *dnsError) Unwrap() []error { return []error{ErrDNS, e.error} }

func publishing(err error) error {
	if err != nil {
		return &dnsError{err}
	}
	return nil
}

// serverName returns what an authority asks for by SNI (RFC 8738, 6: an address
// in the form of the reverse DNS).
func serverName(name string) string {
	if _, err := netip.ParseAddr(name); err != nil {
		return name
	}
	reverse, _ := dns.ReverseAddr(name)
	return bare(reverse)
}

// A witness stands between acmez and the authority. It keeps what was said
// when something went wrong, and leaves each try one order.
type witness struct {
	next http.RoundTripper

	solvers   map[string]acmez.Solver
	url       string // of the directory, as acmez shall know it
	directory struct {
		NewOrder    string `json:"newOrder"`
		RenewalInfo string `json:"renewalInfo"`
		Meta        struct {
			Profiles map[string]string `json:"profiles"`
		} `json:"meta"`
	}
	plain []byte // the directory that acmez sees

	mu      sync.Mutex
	ordered bool
	heard   int   // bytes; acmez goes after links (RFC 8555, 7.4.2) in circles
	proof   error // why a name is not verified
	last    error // what was wrong with the last response
}

// look reads the directory.
//
// With each chain that acmez has fetched it asks for renewal information and
// waits for it, for minutes if need be, certificate in hand. So it sees a
// directory without. It would also go by what it has seen within twelve hours
// at a URL: a fragment makes that another one when the directory has changed.
func (w *witness) look(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	res, err := w.next.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return readProblem(res, body)
	}
	fields := make(map[string]json.RawMessage)
	if err := errors.Join(json.Unmarshal(body, &w.directory), json.Unmarshal(body, &fields)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	delete(fields, "renewalInfo")
	if w.plain, err = json.Marshal(fields); err != nil {
		return err
	}
	sum := sha256.Sum256(w.plain)
	w.url = fmt.Sprintf("%s#%x", url, sum[:8])
	return nil
}

func (w *witness) hasOrdered() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ordered
}

var errOrdered = errors.New("one order a try")

// tooMuch ends an order in which the authority has said more than any needs.
func (w *witness) tooMuch() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.heard <= maxBodies {
		return nil
	}
	w.last = unreachable(errTooMuch)
	return w.last
}

func (w *witness) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet && req.URL.String() == w.url {
		return &http.Response{
			StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Content-Type": {"application/json"}},
			Body:   io.NopCloser(bytes.NewReader(w.plain)), Request: req,
		}, nil
	}
	ordering := req.URL.String() == w.directory.NewOrder
	if ordering && w.hasOrdered() {
		return nil, errOrdered
	}
	if err := w.tooMuch(); err != nil {
		return nil, err
	}
	res, err := w.next.RoundTrip(req)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(res.Body)
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = err
	w.heard += len(body)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode >= 400:
		w.last = readProblem(res, body)
	case ordering:
		w.ordered = true
	case w.proof == nil:
		w.proof = w.hear(body)
	}
	return res, nil
}

// hear takes from an authorization why a name is not verified: a challenge has
// failed, or none is offered that can be met (RFC 8555, 7.1.4 and 7.5.1).
func (w *witness) hear(body []byte) error {
	var authz struct {
		Status     string
		Identifier ident
		Wildcard   bool
		Challenges []struct {
			Type  string
			Error *problem
		}
	}
	if json.Unmarshal(body, &authz) != nil || len(authz.Challenges) == 0 {
		return nil
	}
	id := authz.Identifier
	if authz.Wildcard {
		id.Value = "*." + id.Value
	}
	var offered []string
	for _, c := range authz.Challenges {
		if c.Error != nil {
			c.Error.Identifier, c.Error.proof, c.Error.record = id, true, c.Type == DNS01
			return c.Error
		}
		offered = append(offered, c.Type)
	}
	possible := func(kind string) bool { return w.solvers[kind] != nil }
	if authz.Status != acme.StatusPending || slices.ContainsFunc(offered, possible) {
		return nil
	}
	return fmt.Errorf("%w: %s by %s: correct challenges", errNotOffered, clean(id.Value), clean(strings.Join(offered, ", ")))
}

// explain returns an error of acmez as one of ours. Its own is a chain of what
// it was doing, with URLs that tell operators nothing.
func (w *witness) explain(ctx context.Context, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var (
		local   *dnsError
		invalid *acme.Problem
	)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	case errors.As(err, &local):
		return local
	case w.proof != nil:
		return w.proof
	case w.last != nil:
		return w.last
	case errors.As(err, &invalid) && invalid != nil: // of an order (RFC 8555, 7.1.3)
		return &problem{Type: invalid.Type, Detail: invalid.Detail, status: invalid.Status}
	case errors.Is(err, ErrRefused), errors.Is(err, ErrUnusable):
		return err
	}
	return fmt.Errorf("%w: %s", ErrRefused, clean(err.Error()))
}
