package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/certs/store"
)

// A memory is a Store that can fail.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]chan struct{}
	gets   int
	puts   int
	room   int                           // for a value; 0: enough
	strict bool                          // nothing is done for who has been stopped
	fail   func(doing, key string) error // nil: never
}

func newMemory() *memory {
	return &memory{values: make(map[string][]byte), locks: make(map[string]chan struct{})}
}

func (m *memory) failing(doing, key string) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(doing, key)
}

func (m *memory) breaks(fail func(doing, key string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	if err := m.failing("get", key); err != nil {
		return nil, err
	}
	data, ok := m.values[key]
	if !ok {
		return nil, fmt.Errorf("memory: %s is %w", key, store.ErrNotFound)
	}
	return bytes.Clone(data), nil
}

func (m *memory) Put(ctx context.Context, key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.strict && ctx.Err() != nil {
		return ctx.Err()
	}
	if err := m.failing("put", key); err != nil {
		return err
	}
	if m.room > 0 && len(data) > m.room {
		return errors.New("disk full: make room")
	}
	m.puts++
	m.values[key] = bytes.Clone(data)
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing("delete", key); err != nil {
		return err
	}
	delete(m.values, key)
	return nil
}

func (m *memory) List(_ context.Context, prefix string) (keys []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing("list", prefix); err != nil {
		return nil, err
	}
	for key := range m.values {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (m *memory) Lock(ctx context.Context, name string) (func(), error) {
	m.mu.Lock()
	if err := m.failing("lock", name); err != nil {
		m.mu.Unlock()
		return nil, err
	}
	lock := m.locks[name]
	if lock == nil {
		lock = make(chan struct{}, 1)
		m.locks[name] = lock
	}
	m.mu.Unlock()
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) String() string { return "memory" }

func (m *memory) has(prefix string) (n int) {
	keys, _ := m.List(context.Background(), prefix)
	return len(keys)
}

var _ store.Store = (*memory)(nil)

// A fake is an engine that signs by itself, or does what a test says.
type fake struct {
	ca   *x509.Certificate
	key  crypto.Signer
	life time.Duration

	mu      sync.Mutex
	orders  []order
	times   []time.Time
	obtains func(ctx context.Context, o order) ([][]byte, error) // nil: sign
}

func newFake(t *testing.T) *fake {
	t.Helper()
	key, err := newKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{key: key, life: 9 * day}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca.example.org"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if f.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return f
}

// sign signs what was ordered, with changes.
func (f *fake) sign(o order, change ...func(*x509.Certificate)) [][]byte {
	f.mu.Lock()
	serial := int64(len(f.orders))
	f.mu.Unlock()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: o.names,
		NotBefore: time.Now(), NotAfter: time.Now().Add(f.life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range change {
		c(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, f.ca, o.key.Public(), f.key)
	if err != nil {
		panic(err)
	}
	return [][]byte{der, f.ca.Raw}
}

func (f *fake) obtain(ctx context.Context, o order) ([][]byte, error) {
	f.mu.Lock()
	f.orders = append(f.orders, o)
	f.times = append(f.times, time.Now())
	obtains := f.obtains
	f.mu.Unlock()
	if obtains != nil {
		return obtains(ctx, o)
	}
	return f.sign(o), nil
}

func (f *fake) does(obtains func(ctx context.Context, o order) ([][]byte, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.obtains = obtains
}

func (f *fake) fails(err error) {
	f.does(func(context.Context, order) ([][]byte, error) { return nil, err })
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.orders)
}

// A house is where replicas share a store and an authority.
type house struct {
	t     *testing.T
	store *memory
	*fake
	log logText
}

type logText struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, store: newMemory(), fake: newFake(t)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", &h.log)
		}
	})
	return h
}

// authority returns a replica.
func (h *house) authority(change ...func(*Config)) *Authority {
	cfg := Config{Name: "a", Directory: "https://acme.example.org/dir", AcceptTOS: true, Store: h.store}
	for _, c := range change {
		c(&cfg)
	}
	a := New(cfg)
	a.engine = h.fake
	a.poll = poll
	return a
}

func (h *house) source(o Order) *Source { return h.authority().Source(o) }

// keep runs Keep until the returned function is called.
func (h *house) keep(s *Source) (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Keep(ctx, slog.New(slog.NewTextHandler(&h.log, nil)))
	}()
	return func() { cancel(); <-done }
}

func (h *house) cert(s *Source) *tls.Certificate {
	h.t.Helper()
	cert, err := s.Certificate()
	if err != nil {
		h.t.Fatal(err)
	}
	return cert
}

var mail = Order{Label: "mail", Names: []string{"mail.example.org"}}

const (
	day  = 24 * time.Hour
	poll = 5 * time.Minute // days pass here, and not all of them in seconds
)

// Three replicas that start at once on an empty store make one order, and all
// have what came of it at once.
func TestColdStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.does(func(_ context.Context, o order) ([][]byte, error) {
			time.Sleep(20 * time.Second)
			return h.sign(o), nil
		})
		var sources []*Source
		for range 3 {
			s := h.source(mail)
			defer h.keep(s)()
			sources = append(sources, s)
		}
		time.Sleep(20*time.Second + time.Millisecond)
		synctest.Wait()
		for i, s := range sources {
			if cert := h.cert(s); !cert.Leaf.Equal(h.cert(sources[0]).Leaf) {
				t.Errorf("replica %d has another certificate", i)
			}
		}
		puts := h.store.puts
		time.Sleep(day)
		synctest.Wait()
		if h.count() != 1 {
			t.Errorf("%d orders", h.count())
		}
		if h.store.puts != puts {
			t.Errorf("%d things were written while nothing happened", h.store.puts-puts)
		}
		if n := strings.Count(h.log.String(), "certificate obtained"); n != 1 {
			t.Errorf("%d obtained it", n)
		}
		if n := strings.Count(h.log.String(), "certificate taken from the store"); n != 2 {
			t.Errorf("%d took it from the store", n)
		}
	})
}

// A certificate is renewed when a third of its life is left, once among all
// replicas, and with the key it had, or with another if that is wanted. What
// one replica obtains the others have within seconds.
func TestRenewal(t *testing.T) {
	for _, life := range []time.Duration{3 * day, 6 * time.Hour} {
		for _, rollover := range []bool{false, true} {
			t.Run(fmt.Sprint(life, rollover), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHouse(t)
					h.life = life
					o := mail
					o.Rollover = rollover
					one, two := h.source(o), h.source(o)
					defer h.keep(one)()
					defer h.keep(two)()
					synctest.Wait()
					for n := range 3 {
						old := h.cert(one)
						due := one.Status().Renew
						third := life / 3
						if left := old.Leaf.NotAfter.Sub(due); left < third || left > third+third/10+time.Second {
							t.Fatalf("renewed when %v of %v is left", left, life)
						}
						time.Sleep(time.Until(due) - time.Second)
						synctest.Wait()
						if h.count() != n+1 {
							t.Fatalf("%d orders before renewal %d", h.count(), n+1)
						}
						time.Sleep(2*poll + time.Second)
						synctest.Wait()
						fresh := h.cert(one)
						if h.count() != n+2 || fresh.Leaf.Equal(old.Leaf) {
							t.Fatalf("%d orders after renewal %d", h.count(), n+1)
						}
						if !h.cert(two).Leaf.Equal(fresh.Leaf) {
							t.Error("the other replica has another certificate")
						}
						if kept := fresh.PrivateKey.(*ecdsa.PrivateKey).Equal(old.PrivateKey); kept == rollover {
							t.Errorf("the key was kept: %v", kept)
						}
						if last := h.orders[n+1]; last.replaces == nil || !last.replaces.Equal(old.Leaf) {
							t.Error("the order does not know what it replaces")
						}
					}
				})
			})
		}
	}
}

// The moment of renewal depends on the certificate alone, and differs between
// certificates of one day.
func TestScheduleSpreads(t *testing.T) {
	f := newFake(t)
	key, _ := newKey(P256)
	seen := make(map[time.Duration]bool)
	for range 20 {
		leaf, err := x509.ParseCertificate(f.sign(order{names: mail.Names, key: key})[0])
		if err != nil {
			t.Fatal(err)
		}
		if !schedule(leaf).Equal(schedule(leaf)) {
			t.Error("it changes")
		}
		seen[leaf.NotAfter.Sub(schedule(leaf)).Round(time.Minute)] = true
	}
	if len(seen) < 15 {
		t.Errorf("20 certificates have %d moments", len(seen))
	}
}

// An authority that is down is asked ever more rarely, and what is served
// stays, expired or not.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.source(mail)
		defer h.keep(s)()
		synctest.Wait()
		old := h.cert(s)
		h.fails(fmt.Errorf("%w: it is down: wait", ErrUnreachable))
		time.Sleep(10 * day) // beyond its end
		synctest.Wait()
		if !h.cert(s).Leaf.Equal(old.Leaf) {
			t.Error("the old certificate is gone")
		}
		pauses := func() (d []time.Duration) {
			for i := 2; i < len(h.times); i++ {
				d = append(d, h.times[i].Sub(h.times[i-1]))
			}
			return d
		}()
		want := firstBackoff
		for i, pause := range pauses {
			if pause < want || pause > want+want/4+poll {
				t.Fatalf("pause %d is %v, want %v and up to a quarter more", i, pause, want)
			}
			want = min(2*want, maxBackoff)
		}
		if st := s.Status(); st.Failed != len(pauses)+1 || !errors.Is(st.Err, ErrUnreachable) || st.Tries["unreachable"] != uint64(st.Failed) || st.Tries["ok"] != 1 || !st.Next.After(st.Last) {
			t.Errorf("%+v", st)
		}
		text := h.log.String()
		if n := strings.Count(text, "certificate not obtained"); n != len(pauses)+1 {
			t.Errorf("%d lines for %d tries", n, len(pauses)+1)
		}
		if !strings.Contains(text, "level=WARN") || !strings.Contains(text, "level=ERROR") || strings.Index(text, "level=WARN") > strings.Index(text, "level=ERROR") {
			t.Error("it is not a warning first and an error near the end")
		}

		h.does(nil)
		time.Sleep(maxBackoff + maxBackoff/4 + poll)
		synctest.Wait()
		if st := s.Status(); h.cert(s).Leaf.Equal(old.Leaf) || st.Failed != 0 || st.Err != nil || !st.Next.IsZero() {
			t.Errorf("after it came back: %+v", st)
		}
	})
}

// An authority that says when to come again is not asked before, by no replica
// and not after a restart.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.fails(&problem{Type: problemType + "rateLimited", Detail: "too many", status: 429, after: 30 * time.Hour})
		stop := h.keep(h.source(mail))
		time.Sleep(10 * time.Hour)
		stop()
		s, other := h.source(mail), h.source(mail)
		defer h.keep(s)()
		defer h.keep(other)()
		time.Sleep(19*time.Hour + 59*time.Minute)
		if h.count() != 1 {
			t.Errorf("%d orders", h.count())
		}
		if _, err := s.Certificate(); err == nil || !strings.Contains(err.Error(), "too many (rateLimited)") {
			t.Errorf("after a restart: %v", err)
		}
		time.Sleep(time.Minute + 2*poll)
		synctest.Wait()
		if h.count() != 2 {
			t.Errorf("%d orders after that", h.count())
		}
	})
}

// However often it is restarted, and however many replicas there are, at most
// five validations of a name fail within an hour. `certs renew` waits as well.
func TestFailedValidations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.fails(&problem{Type: problemType + "connection", Detail: "refused", proof: true})
		for range 30 {
			var stops []func()
			for range 3 {
				s := h.source(mail)
				stops = append(stops, h.keep(s))
				s.Renew(t.Context())
			}
			time.Sleep(7 * time.Minute)
			for _, stop := range stops {
				stop()
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.times) < 10 {
			t.Errorf("only %d tries in %v", len(h.times), 30*7*time.Minute)
		}
		for i := maxFailures; i < len(h.times); i++ {
			if within := h.times[i].Sub(h.times[i-maxFailures]); within < failureWindow {
				t.Fatalf("%d failures within %v", maxFailures+1, within)
			}
		}
		kinds := make(map[string]int)
		for _, o := range h.orders {
			kinds[o.challenge]++
		}
		if kinds[TLSALPN01] == 0 || kinds[HTTP01] == 0 {
			t.Errorf("tried %v", kinds)
		}
		s := h.source(mail)
		if err := s.Renew(t.Context()); !errors.Is(err, ErrLimited) || !strings.Contains(err.Error(), "5 validations of mail.example.org failed within an hour") {
			t.Errorf("one more: %v", err)
		}
	})
}

// Only failed validations are counted as such.
func TestOtherFailuresAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		for _, err := range []error{ErrUnreachable, ErrLimited, ErrRefused, ErrUnusable} {
			h.fails(err)
			s := h.source(mail)
			for range 10 {
				if got := s.Renew(t.Context()); !errors.Is(got, err) {
					t.Errorf("%v, want %v", got, err)
				}
			}
		}
		h.does(nil)
		if err := h.source(mail).Renew(t.Context()); err != nil {
			t.Error(err)
		}
		if n := h.store.has("validations/"); n != 0 {
			t.Errorf("%d names have failures", n)
		}
	})
}

// The kind of challenge that worked is the first one next time, also after a
// restart.
func TestPreferredChallenge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.does(func(_ context.Context, o order) ([][]byte, error) {
			if o.challenge != HTTP01 {
				return nil, &problem{Detail: "port 443 is closed", proof: true}
			}
			return h.sign(o), nil
		})
		if err := h.source(mail).Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := h.source(mail)
		if err := s.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, o := range h.orders {
			kinds = append(kinds, o.challenge)
		}
		if want := []string{TLSALPN01, HTTP01, HTTP01}; !slices.Equal(kinds, want) {
			t.Errorf("%v, want %v", kinds, want)
		}
	})
}

// A store that cannot be written has nothing ordered, since that could not be
// kept. What is served stays, and the reason is told.
func TestStoreReadOnly(t *testing.T) {
	for _, doing := range []string{"lock", "put"} {
		t.Run(doing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				stop := h.keep(h.source(mail))
				synctest.Wait()
				stop()
				broken := errors.New("read-only: mount it writable")
				h.store.breaks(func(d, _ string) error {
					if d == doing {
						return broken
					}
					return nil
				})
				s, fresh := h.source(mail), h.source(Order{Label: "new", Names: []string{"new.example.org"}})
				defer h.keep(s)()
				defer h.keep(fresh)()
				time.Sleep(8*day + 12*time.Hour)
				synctest.Wait()
				h.cert(s)
				if h.count() != 1 {
					t.Errorf("%d orders", h.count())
				}
				if st := s.Status(); !errors.Is(st.Err, ErrStore) || !errors.Is(st.Err, broken) || st.Tries["store"] == 0 {
					t.Errorf("%+v", st)
				}
				if st := s.Status(); st.Failed > 3*24 {
					t.Errorf("%d tries in three days", st.Failed)
				}
				if _, err := fresh.Certificate(); !errors.Is(err, broken) {
					t.Errorf("%v", err)
				}
				h.store.breaks(nil)
				time.Sleep(2 * maxBackoff)
				synctest.Wait()
				if h.count() != 3 {
					t.Errorf("%d orders once it can be written", h.count())
				}
			})
		})
	}
}

// A disk that is full when the certificate comes has it served from memory,
// ordered no second time, and stored when there is room again.
func TestStoreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.store.breaks(func(doing, key string) error {
			if doing == "put" && strings.HasPrefix(key, "certificates/") {
				return errors.New("disk full: make room")
			}
			return nil
		})
		s := h.source(mail)
		defer h.keep(s)()
		time.Sleep(2 * day)
		synctest.Wait()
		cert := h.cert(s)
		if h.count() != 1 {
			t.Errorf("%d orders", h.count())
		}
		if n := strings.Count(h.log.String(), "disk full: make room"); n != 1 {
			t.Errorf("it was logged %d times", n)
		}
		if st := s.Status(); !errors.Is(st.Err, ErrStore) {
			t.Errorf("%+v", st)
		}
		h.store.breaks(nil)
		time.Sleep(2 * poll)
		synctest.Wait()
		if st := s.Status(); st.Err != nil {
			t.Errorf("%+v", st)
		}
		puts := h.store.puts
		time.Sleep(5 * poll)
		synctest.Wait()
		if h.store.puts != puts {
			t.Error("it is stored again and again")
		}
		again := h.source(mail)
		if err := again.Load(t.Context()); err != nil || !h.cert(again).Leaf.Equal(cert.Leaf) {
			t.Errorf("it was not stored: %v", err)
		}
	})
}

// A disk that has room for small things only is found out before anything is
// ordered.
func TestStoreNearlyFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.store.room = 2000
		s := h.source(mail)
		says(t, s.Renew(t.Context()), ErrStore, "so nothing was ordered", "make room")
		if h.count() != 0 {
			t.Errorf("%d orders", h.count())
		}
	})
}

// W-16: Nothing is served that clients would refuse. Why is said, the old certificate
// stays, and the authority is not made to issue one after the other.
func TestUnusable(t *testing.T) {
	other, err := newKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		chain      func(f *fake, o order) [][]byte
	}{
		{"nothing", "there is no certificate in the answer", func(*fake, order) [][]byte { return nil }},
		{"garbage", "certificate 1 of the chain: x509: malformed", func(*fake, order) [][]byte { return [][]byte{[]byte("garbage")} }},
		{"another key", "it is for another key", func(f *fake, o order) [][]byte { o.key = other; return f.sign(o) }},
		{"another name", "it is for web.example.org and not for mail.example.org", func(f *fake, o order) [][]byte {
			return f.sign(o, func(c *x509.Certificate) { c.DNSNames = []string{"web.example.org"} })
		}},
		{"expired", "it expired on 1999-12-31T23:59:00Z, and here it is 2000-01-01T00:00:00Z: see that the clock", func(f *fake, o order) [][]byte {
			return f.sign(o, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
		}},
		{"not yet valid", "see that the clock of this machine is right", func(f *fake, o order) [][]byte {
			return f.sign(o, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
		}},
		{"for clients", "its extended key usage lacks serverAuth", func(f *fake, o order) [][]byte {
			return f.sign(o, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}},
		{"an authority's", "its basic constraints say CA", func(f *fake, o order) [][]byte {
			return f.sign(o, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
		}},
		{"not for handshakes", "its key usage lacks digitalSignature", func(f *fake, o order) [][]byte {
			return f.sign(o, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
		}},
		{"endless chain", "clients take no more than 65536", func(f *fake, o order) [][]byte {
			return append(f.sign(o), slices.Repeat([][]byte{f.ca.Raw}, 10_000)...)
		}},
		{"chain of others", "certificate 2 of the chain did not sign the one before it", func(f *fake, o order) [][]byte {
			return [][]byte{f.sign(o)[0], f.sign(o)[0]}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.source(mail)
				defer h.keep(s)()
				synctest.Wait()
				old := h.cert(s)
				h.does(func(_ context.Context, o order) ([][]byte, error) { return tt.chain(h.fake, o), nil })
				if err := s.Renew(t.Context()); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				time.Sleep(8*day + 12*time.Hour)
				synctest.Wait()
				if !h.cert(s).Leaf.Equal(old.Leaf) {
					t.Error("the old certificate is gone")
				}
				for i := 3; i < len(h.times); i++ {
					if pause := h.times[i].Sub(h.times[i-1]); pause < time.Hour {
						t.Fatalf("ordered again after %v", pause)
					}
				}
				if again := h.source(mail); again.Load(t.Context()) != nil || !h.cert(again).Leaf.Equal(old.Leaf) {
					t.Error("the store has another certificate")
				}
			})
		})
	}
}

// A little clock skew does no harm; a clock that was years ahead does none once
// it is right again.
func TestWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var skew atomic.Int64
		skew.Store(int64(-4 * time.Minute))
		a := h.authority()
		a.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		s := a.Source(mail)
		if err := s.Renew(t.Context()); err != nil {
			t.Fatalf("4 minutes behind: %v", err)
		}
		old := h.cert(s)

		skew.Store(int64(10 * 365 * day))
		defer h.keep(s)()
		time.Sleep(day)
		synctest.Wait()
		if err := s.Status().Err; !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "see that the clock of this machine is right") {
			t.Errorf("ten years ahead: %v", err)
		}
		if !h.cert(s).Leaf.Equal(old.Leaf) {
			t.Error("the old certificate is gone")
		}
		tries := h.count()
		if tries > 10 {
			t.Errorf("%d orders in a day", tries)
		}

		skew.Store(0)
		time.Sleep(s.due().Sub(time.Now()) + 2*poll)
		synctest.Wait()
		if h.count() != tries+1 || h.cert(s).Leaf.Equal(old.Leaf) {
			t.Errorf("%d orders once it is right again, before %d", h.count(), tries)
		}
	})
}

// W-17: Where each certificate is due as soon as it is there, since the clock is days
// ahead, or the authority gives out what has lived before, there are a few
// orders and not one at each look.
func TestDueWhenItComes(t *testing.T) {
	for name, skew := range map[string]time.Duration{"clock": 7 * day, "authority": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				if name == "authority" {
					h.does(func(_ context.Context, o order) ([][]byte, error) {
						return h.sign(o, func(c *x509.Certificate) {
							c.NotBefore, c.NotAfter = time.Now().Add(-7*day), time.Now().Add(2*day)
						}), nil
					})
				}
				a := h.authority()
				a.now = func() time.Time { return time.Now().Add(skew) }
				s := a.Source(mail)
				defer h.keep(s)()
				time.Sleep(23 * time.Hour)
				synctest.Wait()
				if h.count() != 1 {
					t.Errorf("%d orders on the first day", h.count())
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if h.count() != 2 {
					t.Errorf("%d orders when half of what was left is over", h.count())
				}
				s.advise(h.cert(s), time.Now().Add(-time.Hour))
				time.Sleep(time.Hour)
				synctest.Wait()
				if h.count() != 2 {
					t.Errorf("%d orders when the authority wishes so, too", h.count())
				}
			})
		})
	}
}

// Garbage in the store is replaced, or named where only people can do so.
func TestGarbageInTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		if err := h.source(mail).Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.fails(&problem{Detail: "no", proof: true})
		h.source(mail).Renew(t.Context())
		h.does(nil)
		for _, garbage := range []string{"", "garbage", "{}", "[]", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
			for key := range h.store.values {
				if !strings.HasPrefix(key, "accounts/") {
					h.store.values[key] = []byte(garbage)
				}
			}
			before := h.count()
			s := h.source(mail)
			if _, err := s.Certificate(); err == nil {
				t.Error("there is a certificate before the store was read")
			}
			stop := h.keep(s)
			synctest.Wait()
			h.cert(s)
			stop()
			if h.count() != before+1 {
				t.Errorf("%q: %d orders", garbage, h.count()-before)
			}
			if again := h.source(mail); again.Load(t.Context()) != nil {
				t.Errorf("%q is still there", garbage)
			}
		}
		if !strings.Contains(h.log.String(), "cannot be used: ") {
			t.Error("nothing was said")
		}

		for key := range h.store.values {
			h.store.values[key] = []byte("garbage")
		}
		s := h.source(mail)
		err := s.Renew(t.Context())
		if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "/key, the key of the account: it holds no key in PEM form: delete it") {
			t.Errorf("the account: %v", err)
		}
	})
}

// A key that was lost is taken from the certificate, so that a TLSA record of
// it stays good.
func TestLostKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.source(mail)
		if err := s.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		key := h.cert(s).PrivateKey.(*ecdsa.PrivateKey)
		for name := range h.store.values {
			if strings.HasPrefix(name, "keys/") {
				delete(h.store.values, name)
			}
		}
		if err := s.Renew(t.Context()); err != nil || !key.Equal(h.cert(s).PrivateKey) {
			t.Errorf("another key, %v", err)
		}
	})
}

// A crash between order and certificate loses no key: the next try uses it.
func TestKeySurvives(t *testing.T) {
	for _, rollover := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			h.fails(ErrUnreachable)
			o := mail
			o.Rollover = rollover
			h.source(o).Renew(t.Context())
			h.source(o).Renew(t.Context())
			if !same(h.orders[0].key, h.orders[1].key) || !same(h.orders[0].account, h.orders[1].account) {
				t.Error("each try makes a key")
			}
		})
	}
}

// When names or keys change, the old certificate is served until there is the
// new one, with the key it had; and replicas before and after the change don't
// replace each other's.
func TestChangedOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		before := h.source(Order{Label: "mail", Names: []string{"a.example.org", "b.example.org"}})
		defer h.keep(before)()
		synctest.Wait()
		old := h.cert(before)
		h.fails(ErrUnreachable)
		after := h.source(Order{Label: "mail", Names: []string{"a.example.org", "c.example.org"}})
		defer h.keep(after)()
		synctest.Wait()
		if !h.cert(after).Leaf.Equal(old.Leaf) || !slices.Equal(after.Names(), old.Leaf.DNSNames) {
			t.Error("the old certificate is not served")
		}
		h.does(nil)
		time.Sleep(day)
		synctest.Wait()
		fresh := h.cert(after)
		if !slices.Equal(fresh.Leaf.DNSNames, []string{"a.example.org", "c.example.org"}) {
			t.Errorf("it is for %v", fresh.Leaf.DNSNames)
		}
		if !fresh.PrivateKey.(*ecdsa.PrivateKey).Equal(old.PrivateKey) {
			t.Error("another name has another key")
		}
		if h.count() != 3 {
			t.Errorf("%d orders", h.count())
		}
		if !h.cert(before).Leaf.Equal(old.Leaf) {
			t.Error("who knows nothing of the change serves another certificate")
		}

		p384 := h.source(Order{Label: "mail", Names: []string{"a.example.org"}, KeyType: P384})
		defer h.keep(p384)()
		synctest.Wait()
		if kind := kindOf(h.cert(p384).Leaf.PublicKey); kind != P384 {
			t.Errorf("its key is %q", kind)
		}

		// What nobody renews any more goes when it has expired.
		if n := h.store.has("certificates/"); n != 3 {
			t.Errorf("%d certificates in the store", n)
		}
	})
}

// Expired certificates of earlier orders are removed.
func TestTidy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.source(mail).Renew(t.Context())
		time.Sleep(10 * day)
		other := mail
		other.KeyType = P384
		h.source(other).Renew(t.Context())
		if n := h.store.has("certificates/"); n != 1 {
			t.Errorf("%d certificates in the store", n)
		}
	})
}

// An older certificate that comes back with a backup of the store replaces
// nothing that is served.
func TestOlderInTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.source(mail)
		if err := s.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		backup := h.store.values[s.slot.certificate()]
		time.Sleep(time.Hour)
		if err := s.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		fresh := h.cert(s)
		h.store.values[s.slot.certificate()] = backup
		if err := s.Load(t.Context()); err != nil || h.cert(s) != fresh {
			t.Errorf("the older one is served: %v", err)
		}
	})
}

// A store that cannot be read for a while is told of as long as that lasts.
func TestStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.source(mail)
		defer h.keep(s)()
		synctest.Wait()
		broken := errors.New("stale file handle")
		h.store.breaks(func(string, string) error { return broken })
		time.Sleep(12 * time.Hour)
		if st := s.Status(); !errors.Is(st.Err, broken) || st.StandIn || st.Certificate == nil {
			t.Errorf("%+v", st)
		}
		if n := strings.Count(h.log.String(), "the store cannot be read"); n != 1 {
			t.Errorf("it was logged %d times", n)
		}
		h.store.breaks(nil)
		time.Sleep(poll + time.Second)
		if st := s.Status(); st.Err != nil {
			t.Errorf("%+v", st)
		}
		if h.count() != 1 {
			t.Errorf("%d orders", h.count())
		}
	})
}

// A gateway with many certificates does not order all at once.
func TestOrdersAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var now, most atomic.Int64
		h.does(func(_ context.Context, o order) ([][]byte, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return h.sign(o), nil
		})
		a := h.authority()
		for i := range 20 {
			defer h.keep(a.Source(Order{Label: fmt.Sprint(i), Names: []string{fmt.Sprintf("%d.example.org", i)}}))()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if h.count() != 20 || most.Load() != maxOrders {
			t.Errorf("%d orders, %d at once", h.count(), most.Load())
		}
	})
}

// A certificate that comes while we are being stopped is kept.
func TestStopAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ctx, cancel := context.WithCancel(t.Context())
		h.does(func(_ context.Context, o order) ([][]byte, error) {
			cancel()
			return h.sign(o), nil
		})
		h.store.strict = true
		if err := h.source(mail).Renew(ctx); err != nil {
			t.Fatal(err)
		}
		s := h.source(mail)
		if err := s.Load(t.Context()); err != nil || s.ours() == nil {
			t.Errorf("it is lost: %v", err)
		}
	})
}

// Renew orders now; two at the same time order once.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		one, two := h.source(mail), h.source(mail)
		defer h.keep(one)()
		defer h.keep(two)()
		synctest.Wait()
		old := h.cert(one)
		h.does(func(_ context.Context, o order) ([][]byte, error) {
			time.Sleep(time.Second)
			return h.sign(o), nil
		})
		var wg sync.WaitGroup
		for _, s := range []*Source{one, two} {
			wg.Go(func() {
				if err := s.Renew(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if h.count() != 2 || h.cert(one).Leaf.Equal(old.Leaf) || !h.cert(one).Leaf.Equal(h.cert(two).Leaf) {
			t.Errorf("%d orders", h.count())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := one.Renew(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A stop in the middle of an order is prompt, and no failure of anybody.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.does(func(ctx context.Context, _ order) ([][]byte, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
		})
		s := h.source(mail)
		stop := h.keep(s)
		time.Sleep(time.Minute)
		began := time.Now()
		stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		if st := s.Status(); st.Failed != 0 || strings.Contains(h.log.String(), "not obtained") {
			t.Errorf("%+v", st)
		}

		// One that takes for ever is a failure.
		defer h.keep(h.source(mail))()
		time.Sleep(tryTimeout + time.Second)
		synctest.Wait()
		if !strings.Contains(h.log.String(), "it is not done in time") {
			t.Error("an endless order goes on")
		}
	})
}

// Without consent to its terms, an authority is asked nothing.
func TestTermsOfService(t *testing.T) {
	h := newHouse(t)
	s := h.authority(func(c *Config) { c.AcceptTOS = false }).Source(mail)
	if err := s.Renew(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "accept_tos = true") {
		t.Error(err)
	}
	if h.count() != 0 {
		t.Error("the authority was asked")
	}
}

// The stand-in is served until the first certificate is there, and is itself
// renewed; without one, the reason is told.
func TestBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.fails(fmt.Errorf("%w: no route", ErrUnreachable))
		o := mail
		o.Bootstrap = true
		s, bare := h.source(o), h.source(Order{Label: "bare", Names: []string{"bare.example.org"}})
		s.authority.poll, bare.authority.poll = 6*time.Hour, 6*time.Hour // months pass
		first := h.cert(s)
		if _, err := bare.Certificate(); err == nil || err.Error() != "not issued yet: https://acme.example.org/dir is being asked for it" {
			t.Errorf("before: %v", err)
		}
		defer h.keep(s)()
		defer h.keep(bare)()
		time.Sleep(70 * day)
		synctest.Wait()
		if second := h.cert(s); second.Leaf.Equal(first.Leaf) {
			t.Error("the stand-in is not renewed")
		}
		if st := s.Status(); !st.StandIn || st.Failed == 0 {
			t.Errorf("%+v", st)
		}
		if _, err := bare.Certificate(); err == nil || !strings.HasPrefix(err.Error(), "not issued yet: tls-alpn-01: the authority cannot be asked: no route") {
			t.Errorf("%v", err)
		}
		h.does(nil)
		time.Sleep(day)
		synctest.Wait()
		if st := s.Status(); st.StandIn || st.Err != nil {
			t.Errorf("%+v", st)
		}
	})
}

// A process that hangs with the lock is named, once.
func TestHungLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.source(mail)
		unlock, err := h.store.Lock(t.Context(), s.slot.certificate())
		if err != nil {
			t.Fatal(err)
		}
		defer h.keep(s)()
		time.Sleep(time.Hour)
		if n := strings.Count(h.log.String(), "another process holds the certificate's lock"); n != 1 {
			t.Errorf("it was said %d times", n)
		}
		unlock()
		synctest.Wait()
		h.cert(s)
	})
}

// Authorities and sources are kept over a reload when nothing about them has
// changed.
func TestMade(t *testing.T) {
	h := newHouse(t)
	cfg := Config{Name: "a", Directory: "https://acme.example.org/dir", Store: store.Open("/x"), CAs: x509.NewCertPool(), ExternalAccount: &ExternalAccount{"id", []byte("k")}}
	a := New(cfg)
	same := cfg
	same.Store, same.CAs, same.ExternalAccount = store.Open("/x"), x509.NewCertPool(), &ExternalAccount{"id", []byte("k")}
	if !a.Made(same) {
		t.Error("the same is another")
	}
	for name, change := range map[string]func(*Config){
		"directory":  func(c *Config) { c.Directory += "2" },
		"email":      func(c *Config) { c.Email = "x@example.org" },
		"terms":      func(c *Config) { c.AcceptTOS = true },
		"store":      func(c *Config) { c.Store = store.Open("/y") },
		"CAs":        func(c *Config) { c.CAs = nil },
		"more CAs":   func(c *Config) { c.CAs = x509.NewCertPool(); c.CAs.AddCert(h.ca) },
		"account":    func(c *Config) { c.ExternalAccount = &ExternalAccount{"id", []byte("l")} },
		"challenges": func(c *Config) { c.Challenges = []string{HTTP01} },
		"engine":     func(c *Config) { c.Advanced = true },
	} {
		changed := same
		change(&changed)
		if a.Made(changed) {
			t.Errorf("another %s is the same", name)
		}
	}
	s := a.Source(mail)
	if o := mail; !s.Made(a, o) {
		t.Error("the same order is another")
	}
	for _, o := range []Order{{Label: "x", Names: mail.Names}, {Label: "mail", Names: []string{"x.example.org"}}, {Label: "mail", Names: mail.Names, Rollover: true},
		{Label: "mail", Names: mail.Names, Bootstrap: true}, {Label: "mail", Names: mail.Names, KeyType: P384}} {
		if s.Made(a, o) {
			t.Errorf("%+v is the same", o)
		}
	}
	if s.Made(New(cfg), mail) {
		t.Error("another authority's is the same")
	}
}
