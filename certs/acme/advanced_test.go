package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sallyport/sallyport/certs/acme/acmetest"
	"github.com/sallyport/sallyport/certs/store"
)

func testKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// advancedAt is an authority with the advanced engine at a Pebble.
func advancedAt(t *testing.T, p *acmetest.Authority, change func(*Config)) *Authority {
	t.Helper()
	cfg := Config{
		Name: "test", Directory: p.Directory, AcceptTOS: true, CAs: p.CAs, Advanced: true, Profile: "default",
		Email: "hostmaster@example.org", Store: store.Open(t.TempDir()),
	}
	if change != nil {
		change(&cfg)
	}
	return New(cfg)
}

// try is an order for names, with a new account.
func try(t *testing.T, challenge string, names ...string) order {
	return order{names: names, key: testKey(t, elliptic.P256()), account: testKey(t, elliptic.P256()), challenge: challenge, log: discard}
}

func obtain(t *testing.T, a *Authority, o order) *x509.Certificate {
	t.Helper()
	chain, err := a.engine.obtain(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) < 2 {
		t.Errorf("a chain of %d", len(chain))
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if !o.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(leaf.PublicKey) {
		t.Error("another key was certified")
	}
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	slices.Sort(names)
	if want := slices.Sorted(slices.Values(o.names)); !slices.Equal(names, want) {
		t.Errorf("certified for %q, not %q", names, want)
	}
	return leaf
}

// A domain with its wildcard, and a name whose proof is an alias into another
// zone, in one certificate, by records in a real name server that Pebble asks.
func TestDNS01(t *testing.T) {
	t.Parallel()
	for kind, start := range map[string]func(t *testing.T, addr, algorithm, zone string) *nameserver{"bind": bind, "knot": knot} {
		t.Run(kind, func(t *testing.T) {
			s := start(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile)
			p := acmetest.Start(t, acmetest.Options{DNS: resolver(t, s)})
			a := advancedAt(t, p, func(c *Config) { c.Challenges, c.DNS = []string{DNS01}, settings(s) })
			obtain(t, a, try(t, DNS01, "example.org", "*.example.org", "www.example.org", "*.www.example.org"))
			if left := append(s.txt(t, "_acme-challenge.example.org"), s.txt(t, "www.acme.example.net")...); left != nil {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// Two names by tls-alpn-01 and by http-01, one kind of challenge each time; an
// address, by SNI in the form of the reverse DNS (RFC 8738); a wildcard goes by
// dns-01 whatever the others do.
func TestAdvancedChallenges(t *testing.T) {
	t.Parallel()
	s := bind(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile+"@ A 127.0.0.1\n")
	p, doors := pebble(t, acmetest.Options{DNS: s.addr})
	a := advancedAt(t, p, func(c *Config) { c.Challenges, c.DNS = []string{HTTP01, TLSALPN01, DNS01}, settings(s) })
	a.Source(Order{Label: "all", Names: []string{"example.org", "mail.example.org", "127.0.0.1"}})
	doors.Store(a)
	for _, challenge := range []string{TLSALPN01, HTTP01} {
		t.Run(challenge, func(t *testing.T) {
			obtain(t, a, try(t, challenge, "example.org", "mail.example.org", "127.0.0.1"))
			obtain(t, a, try(t, challenge, "example.org", "*.mail.example.org"))
		})
	}
	if keys, err := a.cfg.Store.List(t.Context(), "challenges/"); len(keys) > 0 || err != nil {
		t.Errorf("left behind: %q, %v", keys, err)
	}
}

// A profile decides how long a certificate lives; one that the authority
// doesn't have is refused here, with those it has.
func TestProfile(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{Profiles: map[string]time.Duration{"default": 90 * 24 * time.Hour, "shortlived": 6 * 24 * time.Hour}})
	a := advancedAt(t, p, func(c *Config) { c.Profile = "shortlived" })
	a.Source(Order{Names: []string{"mail.example.org"}})
	doors.Store(a)
	var wanted atomic.Int32
	p.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(payload(t, r), `"profile":"shortlived"`) {
			wanted.Add(1)
		}
		return false
	})
	leaf := obtain(t, a, try(t, HTTP01, "mail.example.org"))
	if wanted.Load() == 0 { // without, Pebble chooses at random
		t.Error("no profile was asked for")
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); life != 6*24*time.Hour {
		t.Errorf("it lives %s", life)
	}
	a = advancedAt(t, p, func(c *Config) { c.Profile = "longlived" })
	_, err := a.engine.obtain(t.Context(), try(t, HTTP01, "mail.example.org"))
	refused(t, err, "no profile \"longlived\": write one of default, shortlived")
	if !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
}

// The keys are ours: P-384 as well, with either engine.
func TestP384(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{})
	for _, advanced := range []bool{true, false} {
		a := advancedAt(t, p, func(c *Config) { c.Advanced = advanced })
		a.Source(Order{Names: []string{"mail.example.org"}})
		doors.Store(a)
		o := try(t, TLSALPN01, "mail.example.org")
		o.key = testKey(t, elliptic.P384())
		if leaf := obtain(t, a, o); leaf.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() {
			t.Error("another curve")
		}
	}
}

// An order may take as long as its records may.
func TestPatience(t *testing.T) {
	p := &acmetest.Authority{Directory: "https://ca.example.org/dir"}
	if d := advancedAt(t, p, nil).patience(); d != tryTimeout {
		t.Error(d)
	}
	if d := advancedAt(t, p, func(c *Config) { c.DNS = &Exec{Timeout: 10 * time.Minute} }).patience(); d != tryTimeout+20*time.Minute {
		t.Error(d)
	}
}

// An account is bound to the one that the authority gave; without, and with
// another key, the authority's word is the error. Once made, it is found again
// by its key alone.
func TestExternalAccount(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{ExternalAccounts: map[string]string{"kid-1": "c2FsbHlwb3J0IHRlc3RzIHNpZ24gd2l0aCB0aGlzISE"}})
	right := &ExternalAccount{KeyID: "kid-1", HMAC: []byte("sallyport tests sign with this!!")}
	a := advancedAt(t, p, func(c *Config) { c.ExternalAccount = right })
	a.Source(Order{Names: []string{"mail.example.org"}})
	doors.Store(a)
	o := try(t, HTTP01, "mail.example.org")
	obtain(t, a, o)
	for name, test := range map[string]struct {
		account *ExternalAccount
		says    string
	}{
		"none":        {nil, "external_account"},
		"wrong key":   {&ExternalAccount{KeyID: "kid-1", HMAC: []byte("sallyport tests sign with that!!")}, "external"},
		"unknown key": {&ExternalAccount{KeyID: "kid-2", HMAC: right.HMAC}, "not known to the ACME server"},
	} {
		t.Run(name, func(t *testing.T) {
			b := advancedAt(t, p, func(c *Config) { c.ExternalAccount = test.account })
			_, err := b.engine.obtain(t.Context(), try(t, HTTP01, "mail.example.org"))
			refused(t, err, test.says)
			if !errors.Is(err, ErrRefused) {
				t.Error(err)
			}
			known := try(t, HTTP01, "mail.example.org")
			known.account = o.account
			if _, err := a.engine.obtain(t.Context(), known); err != nil {
				t.Errorf("the account that is there: %v", err)
			}
		})
	}
}

// An order says what it replaces; an authority that does not like it gets one
// that doesn't.
func TestReplaces(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{})
	a := advancedAt(t, p, nil)
	a.Source(Order{Names: []string{"mail.example.org"}})
	doors.Store(a)
	o := try(t, HTTP01, "mail.example.org")
	first := obtain(t, a, o)
	o.replaces = first
	id, err := certificateID(first)
	if err != nil {
		t.Fatal(err)
	}
	var replaced atomic.Int32
	p.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(payload(t, r), `"replaces":"`+id+`"`) {
			replaced.Add(1)
		}
		return false
	})
	second := obtain(t, a, o)
	if replaced.Load() == 0 {
		t.Error("the authority was not told what the order replaces")
	}
	// Replaced already.
	third := obtain(t, a, o)
	if first.Equal(second) || second.Equal(third) {
		t.Error("no new certificate")
	}
	// Issued by somebody else.
	q, others := pebble(t, acmetest.Options{})
	b := advancedAt(t, q, nil)
	b.Source(Order{Names: []string{"mail.example.org"}})
	others.Store(b)
	obtain(t, b, o)
}

// W-15: An authority whose renewal information hangs issues as fast as any.
func TestRenewalInformationHangs(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{})
	a := advancedAt(t, p, nil)
	a.Source(Order{Names: []string{"mail.example.org"}})
	doors.Store(a)
	var asked atomic.Int32
	p.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "renewalInfo") {
			asked.Add(1)
			<-r.Context().Done()
		}
		return false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := a.engine.obtain(ctx, try(t, HTTP01, "mail.example.org")); err != nil || asked.Load() > 0 {
		t.Errorf("%v; it was asked for renewal information %d times", err, asked.Load())
	}
}

// A record that cannot be published ends the try with why, before the
// authority is told to look.
func TestDNS01Fails(t *testing.T) {
	t.Parallel()
	s := bind(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile)
	p := acmetest.Start(t, acmetest.Options{DNS: s.addr})
	var looks atomic.Int32
	p.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/chalZ/") {
			looks.Add(1)
		}
		return false
	})
	for name, test := range map[string]struct {
		dns  func() DNS
		says string
	}{
		"wrong key": {func() DNS {
			d := settings(s)
			d.KeySecret = "b3RoZXIgdGhhbiB0aGF0IG9mIHRoZSBzZXJ2ZXIuLi4="
			return d
		}, "key_secret is not that of the key sallyport"},
		"down": {func() DNS {
			d := settings(s)
			d.Server = loopback(t, "127.0.0.1")
			return d
		}, "connection refused"},
		"program fails": {func() DNS {
			_, port, _ := strings.Cut(s.addr, ":")
			return &Exec{Command: []string{program(t, "echo no credentials >&2; exit 1")}, Timeout: 10 * time.Second, Resolver: s.addr, port: port}
		}, "exit status 1; it said: no credentials"},
		"program hangs": {func() DNS {
			_, port, _ := strings.Cut(s.addr, ":")
			return &Exec{Command: []string{program(t, "exec sleep 60")}, Timeout: 3 * time.Second, Resolver: s.addr, port: port}
		}, "still ran after 3s and was killed"},
	} {
		t.Run(name, func(t *testing.T) {
			a := advancedAt(t, p, func(c *Config) { c.Challenges, c.DNS = []string{DNS01}, test.dns() })
			begin := time.Now()
			_, err := a.engine.obtain(t.Context(), try(t, DNS01, "example.org"))
			refused(t, err, ErrDNS.Error()+": ", test.says)
			if !errors.Is(err, ErrDNS) || strings.Contains(err.Error(), "https://") {
				t.Errorf("%v", err)
			}
			if took := time.Since(begin); took > time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	}
	if looks.Load() > 0 {
		t.Error("the authority was told to look")
	}

	// Published where nobody looks: the authority's word, and the name.
	t.Run("elsewhere", func(t *testing.T) {
		elsewhere := knot(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile)
		a := advancedAt(t, p, func(c *Config) { c.Challenges, c.DNS = []string{DNS01}, settings(elsewhere) })
		_, err := a.engine.obtain(t.Context(), try(t, DNS01, "*.example.org"))
		refused(t, err, "*.example.org", "TXT record")
		if !errors.Is(err, ErrValidation) || looks.Load() == 0 {
			t.Error(err, looks.Load())
		}
		// Nor is another kind of challenge tried, where one would do.
		orders := p.Orders()
		_, err = a.engine.obtain(t.Context(), try(t, HTTP01, "mail.example.org", "*.example.org"))
		if !errors.Is(err, ErrValidation) || p.Orders() != orders+1 {
			t.Errorf("%d orders, %v", p.Orders()-orders, err)
		}
		if left := elsewhere.txt(t, "_acme-challenge.example.org"); left != nil {
			t.Errorf("left behind: %q", left)
		}
	})
}

// A try is one order: where a challenge fails, another one is left to the next.
func TestOneOrderATry(t *testing.T) {
	t.Parallel()
	p := acmetest.Start(t, acmetest.Options{})
	a := advancedAt(t, p, nil)
	a.Source(Order{Names: []string{"mail.example.org"}})
	for _, challenge := range []string{HTTP01, TLSALPN01} {
		_, err := a.engine.obtain(t.Context(), try(t, challenge, "mail.example.org"))
		refused(t, err, "mail.example.org", "connect")
		if !errors.Is(err, ErrValidation) {
			t.Error(err)
		}
	}
	if n := p.Orders(); n != 2 {
		t.Errorf("%d orders", n)
	}
}

// Authorities that cannot be asked, and what is done when a try is cut off.
func TestAdvancedUnreachable(t *testing.T) {
	t.Parallel()
	p := &acmetest.Authority{Directory: "https://" + loopback(t, "127.0.0.1") + "/dir"}
	a := advancedAt(t, p, nil)
	_, err := a.engine.obtain(t.Context(), try(t, HTTP01, "mail.example.org"))
	refused(t, err, "refused")
	if !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
}

// A certificate is revoked by its own key; the authority says so, and then that
// it is time to renew.
func TestRevoke(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{})
	a := advancedAt(t, p, nil)
	a.Source(Order{Names: []string{"mail.example.org"}})
	doors.Store(a)
	o := try(t, HTTP01, "mail.example.org")
	leaf := obtain(t, a, o)
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, Leaf: leaf, PrivateKey: o.key}
	const superseded = 4
	if err := a.Revoke(t.Context(), cert, superseded); err != nil {
		t.Fatal(err)
	}
	err := a.Revoke(t.Context(), cert, superseded)
	refused(t, err, "revoked")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	at := time.Now().Add(time.Hour)
	a.engine.(follower).follow(ctx, discard, leaf, func(advice time.Time) { at = advice; cancel() })
	if time.Until(at) > 0 {
		t.Errorf("Pebble would have it renewed at %s", at)
	}
}

// kept has a source kept until the test ends, or stop, with the clock of its
// authority ahead by what skew holds.
func kept(t *testing.T, a *Authority, o Order, skew *atomic.Int64) (s *Source, stop func()) {
	t.Helper()
	a.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	s = a.Source(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Keep(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return s, stop
}

// next waits for another certificate than old.
func next(t *testing.T, s *Source, old *x509.Certificate) *x509.Certificate {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if cert := s.ours(); cert != nil && !cert.Leaf.Equal(old) {
			return cert.Leaf
		}
	}
	t.Fatalf("no other certificate came: %v", s.Status().Err)
	return nil
}

func sameKey(a, b *x509.Certificate) bool { return a.PublicKey.(*ecdsa.PublicKey).Equal(b.PublicKey) }

// looked returns when the loop has looked at everything once more.
func looked(s *Source) {
	for range 3 { // one that it waits for, one that waits, and one that has to
		s.wake <- struct{}{}
	}
}

// A wildcard of six days is renewed when a third of them is left, and not
// before, by an authority that does not say when. Its key stays, as a TLSA
// record needs it, or is another one each time, announced before (RFC 7671,
// 8.1).
func TestShortlivedWildcard(t *testing.T) {
	t.Parallel()
	server := knot(t, loopback(t, "127.0.0.1"), "hmac-sha256", zoneFile)
	p := acmetest.Start(t, acmetest.Options{DNS: server.addr, Profiles: map[string]time.Duration{"shortlived": 6 * 24 * time.Hour}})
	p.Break(func(w http.ResponseWriter, r *http.Request) bool {
		hidden := strings.Contains(r.URL.Path, "renewalInfo")
		if hidden {
			w.WriteHeader(http.StatusNotFound)
		}
		return hidden
	})
	for _, rollover := range []bool{false, true} {
		a := advancedAt(t, p, func(c *Config) {
			c.Challenges, c.DNS, c.Profile = []string{DNS01, HTTP01}, settings(server), "shortlived"
		})
		var skew atomic.Int64
		s, stop := kept(t, a, Order{Label: "wild", Names: []string{"example.org", "*.example.org"}, KeyType: P384, Rollover: rollover}, &skew)
		first := next(t, s, nil)
		if first.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() {
			t.Error("not P-384")
		}
		if life := first.NotAfter.Sub(first.NotBefore).Round(time.Hour); life != 6*24*time.Hour {
			t.Errorf("it lives %s", life)
		}
		at := s.due()
		if left := first.NotAfter.Sub(at); left < 48*time.Hour || left > 53*time.Hour {
			t.Errorf("it is renewed when %s are left", left)
		}
		orders := p.Orders()
		skew.Store(int64(time.Until(at.Add(-time.Minute))))
		looked(s)
		announced := s.Status().NextKey
		if (announced != nil) != rollover {
			t.Errorf("rollover %t, the next key is announced: %t", rollover, announced != nil)
		}
		offline := a.Source(s.order)
		if err := offline.Load(t.Context()); err != nil || !bytes.Equal(offline.Status().NextKey, announced) {
			t.Errorf("the store says otherwise, %v", err)
		}
		if p.Orders() != orders {
			t.Error("renewed too early")
		}
		skew.Store(int64(time.Until(at.Add(time.Minute))))
		s.wake <- struct{}{}
		second := next(t, s, first)
		if sameKey(first, second) == rollover {
			t.Errorf("rollover %t, the same key %t", rollover, sameKey(first, second))
		}
		if rollover && !bytes.Equal(second.RawSubjectPublicKeyInfo, announced) {
			t.Error("the key is not the one that was announced")
		}
		stop() // or it would renew what Pebble issues for its own time
	}
}

// Once the key need not change any more, the one in use stays: the next one, that
// was announced, is forgotten, for its TLSA record may be nowhere.
func TestBackToReuse(t *testing.T) {
	a := advancedAt(t, &acmetest.Authority{Directory: "https://ca.example.org/dir"}, nil)
	mine := testKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mail.example.org"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, mine.Public(), mine)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	order := Order{Label: "mail", Names: []string{"mail.example.org"}, Rollover: true}
	key := func() crypto.Signer {
		s := a.Source(order)
		s.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: mine, Leaf: leaf})
		key, err := s.key(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	s := a.Source(order)
	s.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: mine, Leaf: leaf})
	if s.upcoming = mine.Public(); s.nextKey() != nil {
		t.Error("the key in use is announced")
	}
	announced := key()
	if same(announced, mine) || !same(key(), announced) {
		t.Error("the next key is not another one that stays")
	}
	order.Rollover = false
	if !same(key(), mine) || !same(key(), mine) {
		t.Error("the key in use is not kept")
	}
	order.Rollover = true
	if k := key(); same(k, mine) || same(k, announced) {
		t.Error("the next key is not a new one")
	}
}

// W-15: When the authority would have a certificate renewed now, it is, at the next
// look, by an order that says what it replaces; and not again and again.
func TestAdvicePromptsRenewal(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{})
	a := advancedAt(t, p, nil)
	var skew atomic.Int64
	o := Order{Label: "mail", Names: []string{"mail.example.org"}}
	a.Source(o)
	doors.Store(a)
	s, stop := kept(t, a, o, &skew)
	first := next(t, s, nil)
	stop()

	now := func(leaf *x509.Certificate) {
		p.SetRenewalInfo(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}),
			suggestion(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), `,"explanationURL":"https://ca.example.org/why"`))
	}
	now(first)
	id, err := certificateID(first)
	if err != nil {
		t.Fatal(err)
	}
	var replaced atomic.Int32
	p.Break(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(payload(t, r), `"replaces":"`+id+`"`) {
			replaced.Add(1)
		}
		return false
	})
	s, stop = kept(t, a, o, &skew)
	second := next(t, s, first)
	if replaced.Load() == 0 {
		t.Error("the authority was not told what the order replaces")
	}
	if !sameKey(first, second) {
		t.Error("another key")
	}
	stop()

	// Again at once: once an hour will do.
	now(second)
	orders := p.Orders()
	s, _ = kept(t, a, o, &skew)
	advised := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.advice.IsZero()
	}
	for deadline := time.Now().Add(time.Minute); !advised(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no advice")
		}
	}
	looked(s)
	if p.Orders() != orders {
		t.Error("renewed again at once")
	}
	if in := s.due().Sub(a.now()); in < 50*time.Minute || in > time.Hour {
		t.Errorf("to be renewed in %s", in)
	}
	skew.Store(int64(61 * time.Minute))
	s.wake <- struct{}{}
	next(t, s, second)
}

// What an authority suggests is bounded: the last sixth of a life is ours.
func TestLateAdvice(t *testing.T) {
	a := advancedAt(t, &acmetest.Authority{Directory: "https://ca.example.org/dir"}, nil)
	s := a.Source(Order{Label: "mail", Names: []string{"mail.example.org"}})
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &tls.Certificate{Leaf: &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(60 * 24 * time.Hour)}}
	s.current.Store(cert)
	for days, want := range map[int]int{1: 1, 30: 30, 45: 45, 55: 50, 70: 50} {
		s.advise(cert, begin.Add(time.Duration(days)*24*time.Hour))
		if got := s.due(); !got.Equal(begin.Add(time.Duration(want) * 24 * time.Hour)) {
			t.Errorf("advised for day %d, due at %s", days, got)
		}
	}
	s.advise(cert, time.Time{})
	if got := s.due(); !got.Equal(schedule(cert.Leaf)) {
		t.Errorf("without advice due at %s", got)
	}
}

var discard = slog.New(slog.DiscardHandler)

// pebble starts an authority, and the doors at which it comes for its
// challenges, where the Authority answers that is stored behind them.
func pebble(t *testing.T, o acmetest.Options) (p *acmetest.Authority, behind *atomic.Pointer[Authority]) {
	t.Helper()
	behind = new(atomic.Pointer[Authority])
	listen := func(port *int) net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		*port = l.Addr().(*net.TCPAddr).Port
		return l
	}
	secret := tls.NewListener(listen(&o.TLSPort), &tls.Config{NextProtos: []string{ALPN}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if a := behind.Load(); a != nil {
			return a.ChallengeCertificate(hello)
		}
		return nil, ErrNoChallenge
	}})
	go func() {
		for {
			c, err := secret.Accept()
			if err != nil {
				return
			}
			go func() {
				c.(*tls.Conn).Handshake()
				c.Close()
			}()
		}
	}()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		a := behind.Load()
		if a == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		body, err := a.ChallengeResponse(r.Context(), r.Host, token)
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
		}
		w.Write(body)
	})}
	t.Cleanup(func() { server.Close() })
	go server.Serve(listen(&o.HTTPPort))
	return acmetest.Start(t, o), behind
}

// resolver follows aliases, as those do that authorities ask and name servers
// don't.
func resolver(t *testing.T, s *nameserver) string {
	return fakeDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		name := q.Question[0].Name
		for range 8 {
			q.Question[0].Name = name
			r, err := dns.Exchange(q.Copy(), s.addr)
			if err != nil {
				break
			}
			var alias *dns.CNAME
			if len(r.Answer) > 0 {
				alias, _ = r.Answer[len(r.Answer)-1].(*dns.CNAME)
			}
			if alias == nil || q.Question[0].Qtype == dns.TypeCNAME {
				w.WriteMsg(r)
				return
			}
			name = alias.Target
		}
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
}

// payload returns what a request to an authority says, and leaves it readable.
func payload(t *testing.T, r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var jws struct{ Payload string }
	json.Unmarshal(body, &jws)
	text, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	return string(text)
}

// Where a challenge fails, acmez would make another order; the loop counts that
// as another try.
func TestWitnessLeavesOneOrder(t *testing.T) {
	var asked int
	w := &witness{next: authorityFunc(func(*http.Request) (*http.Response, error) {
		asked++
		return reply([]int{400, 201, 201}[asked-1], "{}", ""), nil
	})}
	w.directory.NewOrder = "https://ca.example.org/order"
	for i, want := range []error{nil, nil, errOrdered} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.directory.NewOrder, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.RoundTrip(req); !errors.Is(err, want) {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

// W-16: What an authority says in one order is bounded in all, wherever its links
// lead: acmez would follow these until the time is over, and keep it all.
func TestLinksInCircles(t *testing.T) {
	t.Parallel()
	p, doors := pebble(t, acmetest.Options{})
	a := advancedAt(t, p, nil)
	a.Source(Order{Names: []string{"mail.example.org"}})
	doors.Store(a)
	var asked atomic.Int32
	p.Break(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/certZ/") {
			return false
		}
		if asked.Add(1) > 100 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Header().Set("Link", fmt.Sprintf("<https://%s%s>;rel=\"up\"", r.Host, r.URL.Path))
		io.WriteString(w, strings.Repeat("\n", maxBody))
		return true
	})
	_, err := a.engine.obtain(t.Context(), try(t, HTTP01, "mail.example.org"))
	refused(t, err, "more than 16 MiB in all")
	if !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	if n := asked.Load(); n > 2*maxBodies/maxBody {
		t.Errorf("it was asked for the chain %d times", n)
	}
}
