package acme

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// An autocertEngine talks to an authority by autocert.Manager.
//
// A Manager wants to be asked in handshakes, keeps a schedule of its own,
// chooses keys by itself, and says nothing of what went wrong later than the
// first time. So each order gets a Manager of its own, which finds in its cache
// a certificate of our key that is about to expire, and renews it at once, with
// that key. What it says and hears goes through an overseer; and when it comes
// back to its cache, the order is over, and with it the Manager.
type autocertEngine struct {
	cfg        Config
	client     *http.Client
	challenges *challenges
}

var _ engine = (*autocertEngine)(nil)

// renewBefore makes the certificate in the cache due (the Manager allows no
// more).
const renewBefore = 30 * 24 * time.Hour

func (e *autocertEngine) obtain(ctx context.Context, o order) (chain [][]byte, err error) {
	if len(o.names) != 1 || strings.HasPrefix(o.names[0], "*.") {
		return nil, fmt.Errorf("%w: autocert has one name in a certificate, without wildcard: write manager = \"advanced\"", ErrRefused)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := &overseer{ctx: ctx, order: o, next: e.client.Transport, ended: make(chan struct{})}
	expiring, err := placeholder(o)
	if err != nil {
		return nil, err
	}
	m := &autocert.Manager{
		Prompt:      autocert.AcceptTOS, // what Config.AcceptTOS says is looked at before
		Cache:       &cache{overseer: v, challenges: e.challenges, expiring: expiring, removes: make(map[string]func())},
		HostPolicy:  autocert.HostWhitelist(o.names...),
		RenewBefore: renewBefore,
		Email:       e.cfg.Email,
		Client: &acme.Client{
			Key:          o.account,
			HTTPClient:   &http.Client{Transport: v},
			DirectoryURL: e.cfg.Directory,
			UserAgent:    "sallyport",
			RetryBackoff: backoff,
		},
	}
	if x := e.cfg.ExternalAccount; x != nil {
		m.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: x.KeyID, Key: x.HMAC}
	}
	if o.challenge == HTTP01 {
		m.HTTPHandler(nil) // else it would not try
	}
	hello := &tls.ClientHelloInfo{ServerName: o.names[0], CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
	refused := make(chan error, 1)
	go func() { // the cache may end whoever asks it
		if _, err := m.GetCertificate(hello); err != nil {
			refused <- err
		}
	}()
	select {
	case err := <-refused:
		return nil, fmt.Errorf("%w: %w: write manager = \"advanced\"", ErrRefused, err)
	case <-v.ended:
	case <-ctx.Done():
	}
	return v.result()
}

// backoff has a request repeated that failed by chance: a used nonce (RFC 8555,
// 6.5) or a server in trouble for a moment. The rest is the loop's affair.
func backoff(n int, _ *http.Request, res *http.Response) time.Duration {
	switch {
	case res.StatusCode == http.StatusBadRequest && n < 10:
		return time.Duration(n) * 50 * time.Millisecond
	case res.StatusCode >= 500 && res.Header.Get("Retry-After") == "" && n < 3:
		return time.Duration(n) * time.Second
	}
	return 0
}

// placeholder returns a certificate of an order's key that a Manager takes for
// its own, and for about to expire.
func placeholder(o order) ([]byte, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     o.names,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, o.key.Public(), o.key)
	if err != nil {
		return nil, err
	}
	return encode(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: o.key})
}

// A cache is what a Manager takes for its cache.
type cache struct {
	overseer   *overseer
	challenges *challenges
	expiring   []byte

	mu      sync.Mutex
	removes map[string]func() // of challenges, by key
}

var _ autocert.Cache = (*cache)(nil)

const (
	tokenSuffix    = "+token"
	responseSuffix = "+http-01"
)

// Get has the certificate that is about to expire, until the order is over.
// Who asks then is, as a rule, the timer of the Manager's next try, which
// nothing else stops.
func (c *cache) Get(_ context.Context, key string) ([]byte, error) {
	if strings.ContainsRune(key, '+') {
		return nil, autocert.ErrCacheMiss
	}
	if c.overseer.over() {
		runtime.Goexit()
	}
	return c.expiring, nil
}

// Put takes answers to challenges, and what was issued: then the Manager is not
// needed any more, nor its timer, which is started behind the end of Put.
func (c *cache) Put(ctx context.Context, key string, data []byte) error {
	remove := func() {}
	if name, ok := strings.CutSuffix(key, tokenSuffix); ok {
		cert, err := decodeSEC1(data)
		if err != nil {
			return err
		}
		if remove, err = c.challenges.presentCertificate(ctx, name, cert); err != nil {
			return err
		}
	} else if token, ok := strings.CutSuffix(key, responseSuffix); ok {
		remove = c.challenges.presentResponse(ctx, c.overseer.order.names[0], token, string(data))
	} else {
		c.overseer.end()
		runtime.Goexit()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removes[key] = remove
	return nil
}

// Delete removes answers to challenges.
func (c *cache) Delete(_ context.Context, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if remove := c.removes[key]; remove != nil {
		remove()
		delete(c.removes, key)
	}
	return nil
}

// decodeSEC1 reads what a Manager puts into its cache: the key, in the form of
// SEC 1, then the chain.
func decodeSEC1(data []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	if _, ok := cert.PrivateKey.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("a key of type %T", cert.PrivateKey)
	}
	return &cert, nil
}

// An overseer stands between a Manager and the authority. It keeps what the
// Manager would not tell, has it try one kind of challenge and make one order,
// and notices its end.
type overseer struct {
	ctx   context.Context
	order order
	next  http.RoundTripper

	begin, close sync.Once
	ended        chan struct{}

	mu       sync.Mutex
	newOrder string          // URLs
	proofs   map[string]bool // of challenges
	ordered  bool
	accepted bool   // the authority was asked to verify, and has not said yet
	chain    []byte // PEM
	err      error  // the last one
}

func (v *overseer) end() { v.close.Do(func() { close(v.ended) }) }

func (v *overseer) over() bool {
	select {
	case <-v.ended:
		return true
	case <-v.ctx.Done():
		return true
	default:
		return false
	}
}

func (v *overseer) RoundTrip(req *http.Request) (*http.Response, error) {
	// The first request is made within the context of the Manager's try.
	v.begin.Do(func() { context.AfterFunc(req.Context(), v.end) })
	if v.over() {
		return nil, context.Canceled
	}
	v.mu.Lock()
	switch url := req.URL.String(); {
	case url == v.newOrder && v.ordered:
		// Where one kind of challenge fails, it would try the next one with
		// another order. Why it failed is known.
		err := v.err
		v.mu.Unlock()
		if err == nil {
			err = errGaveUp
		}
		return nil, err
	case v.proofs[url]:
		v.accepted = true
	}
	v.mu.Unlock()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel() // the response is whole then
	defer context.AfterFunc(v.ctx, cancel)()
	res, err := v.next.RoundTrip(req.WithContext(ctx))
	if err == nil {
		err = v.hear(req, res)
	}
	if err != nil && v.ctx.Err() == nil {
		v.fail(err)
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (v *overseer) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = err
}

// hear takes from a response what will be needed. An error is for the Manager,
// which gives up then.
func (v *overseer) hear(req *http.Request, res *http.Response) error {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	if res.StatusCode >= 400 {
		if p := readProblem(res, body); p.kind() != "badNonce" {
			v.fail(p)
		}
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/pem-certificate-chain") {
		v.chain = body
		return nil
	}
	var said struct {
		NewOrder    string
		Status      string
		Error       *problem
		Identifiers []ident // of an order
		Identifier  ident   // of an authorization
		Challenges  []json.RawMessage
	}
	if json.Unmarshal(body, &said) != nil {
		return nil
	}
	switch {
	case said.NewOrder != "":
		v.newOrder = said.NewOrder
	case said.Identifiers != nil:
		v.ordered = true
		if said.Error != nil {
			said.Error.status = res.StatusCode
			v.err = said.Error
		}
	case said.Challenges != nil:
		return v.authorization(res, body, said.Status, said.Identifier, said.Challenges)
	}
	return nil
}

// authorization has the Manager see the one kind of challenge alone, and keeps
// why it failed (RFC 8555, 7.1.4 and 8).
func (v *overseer) authorization(res *http.Response, body []byte, status string, id ident, offered []json.RawMessage) error {
	var kinds []string
	var left []json.RawMessage
	for _, raw := range offered {
		var c struct {
			Type, URL string
			Error     *problem
		}
		if json.Unmarshal(raw, &c) != nil {
			continue
		}
		kinds = append(kinds, c.Type)
		if c.Error != nil {
			c.Error.proof = true
			c.Error.Identifier = id
			v.err = c.Error
		}
		if c.Type == v.order.challenge {
			left = append(left, raw)
			if v.proofs == nil {
				v.proofs = make(map[string]bool)
			}
			v.proofs[c.URL] = true
		}
	}
	switch status {
	case acme.StatusValid:
		v.accepted = false
	case acme.StatusPending:
		return v.filter(res, body, left, kinds, id)
	}
	return nil
}

// filter leaves some of the challenges in an authorization.
func (v *overseer) filter(res *http.Response, body []byte, left []json.RawMessage, kinds []string, id ident) error {
	if len(left) == 0 {
		return fmt.Errorf("%w: for %s it offers %s: correct challenges", errNotOffered, clean(id.Value), clean(strings.Join(kinds, ", ")))
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	all["challenges"], _ = json.Marshal(left)
	fewer, err := json.Marshal(all)
	if err != nil {
		return err
	}
	res.Body = io.NopCloser(bytes.NewReader(fewer))
	res.ContentLength = int64(len(fewer))
	return nil
}

// result returns what came of it. A chain counts even where the Manager did not
// like it: what is wrong with it can be said better.
func (v *overseer) result() (chain [][]byte, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for rest := v.chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		chain = append(chain, block.Bytes)
	}
	switch {
	case v.chain != nil:
		return chain, nil
	case v.err != nil:
		return nil, v.err
	case v.accepted:
		return nil, fmt.Errorf("%w in time: try another time, or another authority", ErrValidation)
	case v.ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(v.ctx))
	}
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, errGaveUp)
}

var errGaveUp = errors.New("it was given up for no reason that the authority told")
