package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/sallyport/sallyport/certs/acme/acmetest"
	"github.com/sallyport/sallyport/certs/store"
)

// A town is an authority, the doors at which it comes for its challenges, and a
// store for replicas that use autocert.
type town struct {
	*acmetest.Authority
	t     *testing.T
	doors *atomic.Pointer[Authority]
	store *store.Dir
}

func newTown(t *testing.T, o acmetest.Options) *town {
	t.Helper()
	p, doors := pebble(t, o)
	return &town{p, t, doors, store.Open(filepath.Join(t.TempDir(), "acme"))}
}

// replica returns an authority of another process.
func (w *town) replica(change ...func(*Config)) *Authority {
	cfg := Config{Name: "pebble", Directory: w.Directory, Email: "hostmaster@example.org", AcceptTOS: true, CAs: w.CAs, Store: w.store}
	for _, c := range change {
		c(&cfg)
	}
	return New(cfg)
}

// answering is a replica that the authority reaches.
func (w *town) answering(change ...func(*Config)) *Authority {
	a := w.replica(change...)
	w.doors.Store(a)
	return a
}

func by(kinds ...string) func(*Config) { return func(c *Config) { c.Challenges = kinds } }

// trusted fails where clients that trust the authority would not take what is
// served for a name.
func (w *town) trusted(s *Source, name string) {
	w.t.Helper()
	cert, err := s.Certificate()
	if err != nil {
		w.t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Server(a, &tls.Config{Certificates: []tls.Certificate{*cert}}).Handshake()
	if err := tls.Client(b, &tls.Config{RootCAs: w.Roots(w.t), ServerName: name}).Handshake(); err != nil {
		w.t.Error(err)
	}
}

// says fails where an error is another one, or says less.
func says(t *testing.T, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v; want %v", err, want)
	}
	for _, part := range parts {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
}

// A certificate is issued by either challenge, is trusted, and is there after a
// restart although the authority is not. A renewal keeps the key, or doesn't.
func TestAutocert(t *testing.T) {
	t.Parallel()
	w := newTown(t, acmetest.Options{})
	for i, kind := range []string{TLSALPN01, HTTP01} {
		o := Order{Label: kind, Names: []string{fmt.Sprintf("mail%d.example.org", i)}, Rollover: kind == HTTP01}
		s, stop := kept(t, w.answering(by(kind)), o, new(atomic.Int64))
		first := next(t, s, nil)
		w.trusted(s, o.Names[0])
		stop()
		orders := w.Orders()
		if orders != i*2+1 {
			t.Errorf("%d orders", orders)
		}

		w.Break(acmetest.Down)
		again, stop := kept(t, w.answering(by(kind)), o, new(atomic.Int64))
		if !next(t, again, nil).Equal(first) {
			t.Error("another certificate after a restart")
		}
		w.Break(nil)
		stop()
		if w.Orders() != orders {
			t.Error("a restart made an order")
		}

		if err := again.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		second := next(t, again, first)
		if sameKey(first, second) == o.Rollover {
			t.Errorf("the key stayed: %v", sameKey(first, second))
		}
		w.trusted(again, o.Names[0])
	}
	if keys, err := w.store.List(t.Context(), "challenges/"); err != nil || len(keys) > 0 {
		t.Errorf("challenges are left behind: %v, %v", keys, err)
	}
	if keys, err := w.store.List(t.Context(), "validations/"); err != nil || len(keys) > 0 {
		t.Errorf("validations that succeeded count as failures: %v, %v", keys, err)
	}
}

// Three replicas on an empty store make one order at the authority, which
// reaches another of them than the one that ordered, and all have what came of
// it.
func TestReplicas(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{TLSALPN01, HTTP01} {
		w := newTown(t, acmetest.Options{})
		o := Order{Label: "mail", Names: []string{"mail.example.org"}}
		bystander := w.answering(by(kind))
		bystander.Source(o) // it knows the name, and orders nothing
		var sources []*Source
		for range 3 {
			s, _ := kept(t, w.replica(by(kind)), o, new(atomic.Int64))
			sources = append(sources, s)
		}
		first := next(t, sources[0], nil)
		for _, s := range sources[1:] {
			if !next(t, s, nil).Equal(first) {
				t.Error("replicas have different certificates")
			}
		}
		if w.Orders() != 1 {
			t.Errorf("%s: %d orders", kind, w.Orders())
		}
	}
}

// When the authority cannot verify the name, the error says why and what to do,
// each kind of challenge was tried once with one order, and it ends with the
// fifth failure within an hour.
func TestValidationFails(t *testing.T) {
	t.Parallel()
	w := newTown(t, acmetest.Options{})
	s := w.replica().Source(Order{Label: "mail", Names: []string{"mail.example.org"}}) // nobody answers
	err := s.Renew(t.Context())
	says(t, err, ErrValidation, "tls-alpn-01: the authority could not verify a name (mail.example.org): ",
		"; http-01: the authority could not verify a name (mail.example.org): ", "(unauthorized)", "somebody else answers")
	if w.Orders() != 2 {
		t.Errorf("%d orders for two kinds of challenges", w.Orders())
	}
	s.Renew(t.Context())
	says(t, s.Renew(t.Context()), ErrValidation)
	if w.Orders() != 5 {
		t.Errorf("%d orders for five failures", w.Orders())
	}
	says(t, s.Renew(t.Context()), ErrLimited, "5 validations of mail.example.org failed within an hour")
	if w.Orders() != 5 {
		t.Errorf("%d orders after five failures", w.Orders())
	}
	if _, err := s.Certificate(); err == nil || !strings.Contains(err.Error(), "not issued yet: the authority wants fewer orders") {
		t.Error(err)
	}
	if st := s.Status(); st.Tries["validation"] != 3 || st.Tries["limited"] != 1 || st.Failed != 4 || time.Until(st.Next) < 50*time.Minute {
		t.Errorf("%+v", st)
	}

	// What cannot be connected to is told apart.
	closed := w.replica(by(HTTP01))
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := server.Addr().(*net.TCPAddr).Port
	server.Close()
	nobody := acmetest.Start(t, acmetest.Options{HTTPPort: port})
	closed = New(Config{Directory: nobody.Directory, CAs: nobody.CAs, AcceptTOS: true, Store: w.store, Challenges: []string{HTTP01}})
	says(t, closed.Source(Order{Label: "x", Names: []string{"x.example.org"}}).Renew(t.Context()), ErrValidation, "(connection)", "no firewall is between")
}

// An account needs the key that the authority gave, and says so.
func TestAutocertExternalAccount(t *testing.T) {
	t.Parallel()
	w := newTown(t, acmetest.Options{ExternalAccounts: map[string]string{"kid-1": "c2FsbHlwb3J0IHRlc3RzIHNpZ24gd2l0aCB0aGlzISE"}})
	right := &ExternalAccount{KeyID: "kid-1", HMAC: []byte("sallyport tests sign with this!!")}
	wrong := &ExternalAccount{KeyID: "kid-1", HMAC: []byte("sallyport tests sign with that!!")}
	o := Order{Label: "mail", Names: []string{"mail.example.org"}}
	with := func(x *ExternalAccount) error {
		return w.answering(func(c *Config) { c.ExternalAccount = x }).Source(o).Renew(t.Context())
	}
	says(t, with(nil), ErrRefused, "(externalAccountRequired)", "write external_account")
	says(t, with(wrong), ErrRefused)
	for range 2 { // a new account, then the same
		if err := with(right); err != nil {
			t.Error(err)
		}
	}
}

// An authority that is not there, or is none, is one clear error each. What was
// issued before is served on, and it works when the authority comes back.
func TestBadAuthority(t *testing.T) {
	t.Parallel()
	w := newTown(t, acmetest.Options{})
	var skew atomic.Int64
	a := w.answering()
	transport := a.client.Transport.(*transport)
	a.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	s := a.Source(Order{Label: "mail", Names: []string{"mail.example.org"}})

	answers := func(path string, f http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, path) {
				return false
			}
			f(rw, r)
			return true
		}
	}
	document := func(status int, kind, detail string, after ...string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/problem+json")
			for _, value := range after {
				rw.Header().Set("Retry-After", value)
			}
			rw.WriteHeader(status)
			json.NewEncoder(rw).Encode(map[string]string{"type": problemType + kind, "detail": detail})
		}
	}
	text := func(kind, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			io.WriteString(rw, body)
		}
	}
	slow := func(rw http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			io.WriteString(rw, " ")
			rw.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
	}
	endless := func(rw http.ResponseWriter, r *http.Request) {
		for spaces := strings.Repeat(" ", 64<<10); r.Context().Err() == nil; {
			if _, err := io.WriteString(rw, spaces); err != nil {
				return
			}
		}
	}
	other := testKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mail.example.org"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, other.Public(), other)
	if err != nil {
		t.Fatal(err)
	}
	foreign := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	loop := func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/dir?again", http.StatusFound) }

	cases := []struct {
		name   string
		broken func(http.ResponseWriter, *http.Request) bool
		err    error
		parts  []string
	}{
		{"down", acmetest.Down, ErrUnreachable, []string{"EOF", "no firewall is between"}},
		{"a web page", answers("/dir", text("text/html", "<html>Welcome</html>")), ErrUnreachable, []string{"what is not JSON (text/html)", "is directory the URL of an ACME directory?"}},
		{"nothing", answers("/dir", text("application/json", "")), ErrUnreachable, []string{"is directory the URL of an ACME directory?"}},
		{"other JSON", answers("/dir", text("application/json", `{"hello":"world"}`)), ErrUnreachable, []string{"it names no newNonce", "is directory the URL of an ACME directory?"}},
		{"an older ACME", answers("/dir", text("application/json", `{"new-reg":"https://127.0.0.1/reg"}`)), ErrUnreachable, []string{"it names no newNonce"}},
		{"cleartext within", answers("/dir", text("application/json", `{"newNonce":"http://127.0.0.1/","newAccount":"http://127.0.0.1/","newOrder":"http://127.0.0.1/"}`)), ErrUnreachable, []string{"without https"}},
		{"not found", answers("/dir", http.NotFound), ErrRefused, []string{"it answers 404 Not Found"}},
		{"slow", answers("/dir", slow), ErrUnreachable, []string{"it takes longer than 30s to answer"}},
		{"endless", answers("/dir", endless), ErrUnreachable, []string{"it answers with more than 1 MiB"}},
		{"endless order", answers("/order-plz", endless), ErrUnreachable, []string{"it answers with more than 1 MiB"}},
		{"a loop", answers("/dir", loop), ErrUnreachable, []string{"it redirects to /dir?again", "write it as directory"}},
		{"in trouble", answers("/sign-me-up", document(503, "serverInternal", "later", "120")), ErrUnreachable, []string{"later (serverInternal)"}},
		{"limited", answers("/order-plz", document(429, "rateLimited", "too many\x1b[2J certificates", "7200")), ErrLimited, []string{"too many [2J certificates (rateLimited)", "what is served stays"}},
		{"a name it has not", answers("/order-plz", document(400, "rejectedIdentifier", "forbidden")), ErrRefused, []string{"forbidden (rejectedIdentifier)", "take the name out"}},
		{"a bad contact", answers("/sign-me-up", document(400, "invalidContact", "no MX")), ErrRefused, []string{"no MX (invalidContact): correct email"}},
		{"CAA", answers("/finalize-order/", document(403, "caa", "forbids it")), ErrRefused, []string{"forbids it (caa)", "let the CAA records"}},
		{"another's certificate", answers("/certZ/", text("application/pem-certificate-chain", foreign)), ErrUnusable, []string{"it is for another key"}},
		{"no certificate", answers("/certZ/", text("application/pem-certificate-chain", "garbage")), ErrUnusable, []string{"there is no certificate in the answer"}},
	}
	at := func(when string, failed func()) {
		for _, c := range cases {
			t.Run(when+"/"+c.name, func(t *testing.T) {
				w.Break(c.broken)
				defer w.Break(nil)
				transport.timeout.Store(int64(requestTimeout))
				if c.name == "slow" {
					transport.timeout.Store(int64(time.Second))
				}
				began := time.Now()
				says(t, s.Renew(t.Context()), c.err, c.parts...)
				if took := time.Since(began); took > time.Minute {
					t.Errorf("it took %v", took)
				}
				failed()
				if c.name == "limited" {
					if st := s.Status(); st.Next.Sub(st.Last) < 2*time.Hour {
						t.Errorf("next try after %v", st.Next.Sub(st.Last))
					}
				}
			})
		}
	}
	at("at the start", func() {
		if _, err := s.Certificate(); err == nil || !strings.HasPrefix(err.Error(), "not issued yet: ") {
			t.Errorf("%v", err)
		}
	})
	transport.timeout.Store(int64(requestTimeout))
	if err := s.Renew(t.Context()); err != nil {
		t.Fatalf("when it is there: %v", err)
	}
	cert, _ := s.Certificate()
	at("at a renewal", func() {
		if c, err := s.Certificate(); err != nil || c != cert {
			t.Error("what was served does not stay")
		}
	})
}

// W-18: Who is on the way to the authority has no say in what is logged and shown.
func TestStrangersWords(t *testing.T) {
	names := []string{"a\r\nlevel=INFO msg=forged\x1b[2J", strings.Repeat("x", 1<<17)}
	err := unreachable(fmt.Errorf("tls: %w", x509.HostnameError{Certificate: &x509.Certificate{DNSNames: names}, Host: "acme.example.org"}))
	says(t, err, ErrUnreachable, "a  level=INFO msg=forged [2J", "correct the host in the directory's URL")
	if text := err.Error(); len(text) > 2*maxDetail || strings.ContainsAny(text, "\r\n\x1b") {
		t.Errorf("%d bytes: %.200q", len(text), text)
	}
}

// Whom the directory is to be, is checked.
func TestDirectoryIsAuthenticated(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	at := func(directory string, change ...func(*Config, *tls.Config)) error {
		cfg := Config{Directory: directory, AcceptTOS: true, Store: newMemory()}
		var settings tls.Config
		for _, c := range change {
			c(&cfg, &settings)
		}
		a := New(cfg)
		a.client.Transport.(*transport).next.(*http.Transport).TLSClientConfig.Time = settings.Time
		return a.Source(Order{Label: "mail", Names: []string{"mail.example.org"}}).Renew(t.Context())
	}
	says(t, at(server.URL), ErrUnreachable, "certificate signed by unknown authority", "in ca_file")
	says(t, at(strings.Replace(server.URL, "127.0.0.1", "localhost", 1), func(c *Config, _ *tls.Config) { c.CAs = trusted }),
		ErrUnreachable, "not localhost", "correct the host in the directory's URL")
	says(t, at(server.URL, func(c *Config, s *tls.Config) {
		c.CAs = trusted
		s.Time = func() time.Time { return time.Date(2201, 1, 1, 0, 0, 0, 0, time.UTC) }
	}), ErrUnreachable, "certificate has expired", "see that the clock of this machine is right")
	says(t, at("http://127.0.0.1:1/dir"), ErrUnreachable, "without https everybody on the way could order certificates")
	says(t, at("https://127.0.0.1:1/dir"), ErrUnreachable, "connection refused", "see that the directory's URL is right")
}

// Names that autocert does not take are refused with the way out, before the
// authority is asked.
func TestAutocertNames(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"localhost"}, {"a.example.org", "b.example.org"}, {"a_b.example.org"}} {
		a := New(Config{Directory: "https://127.0.0.1:1/dir", AcceptTOS: true, Store: newMemory()})
		says(t, a.Source(Order{Label: "x", Names: names}).Renew(t.Context()), ErrRefused, `write manager = "advanced"`)
	}
	a := New(Config{Directory: "https://127.0.0.1:1/dir", AcceptTOS: true, Store: newMemory()})
	says(t, a.Source(Order{Label: "x", Names: []string{"*.example.org"}}).Renew(t.Context()), ErrRefused, "add dns-01")
}

// An order that is over leaves no goroutine and asks nothing any more, however
// it ended: not even one that had ended before it began.
func TestAutocertEnds(t *testing.T) {
	w := newTown(t, acmetest.Options{})
	a := w.answering(by(TLSALPN01))
	o := Order{Label: "mail", Names: []string{"mail.example.org"}}
	s := a.Source(o)
	one := func() order {
		return order{names: o.Names, key: testKey(t, elliptic.P256()), account: testKey(t, elliptic.P256()), challenge: TLSALPN01, log: discard}
	}
	if err := s.Renew(t.Context()); err != nil { // so that all that stays is there
		t.Fatal(err)
	}
	var requests atomic.Int64
	count := func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return false }
	before := runtime.NumGoroutine()
	o1 := one()
	held := weak.Make(o1.account.(*ecdsa.PrivateKey))
	if _, err := a.engine.obtain(t.Context(), o1); err != nil {
		t.Fatal(err)
	}
	o1 = order{}
	gone(t, held)

	for range 2 {
		w.Break(count)
		if _, err := a.engine.obtain(t.Context(), one()); err != nil {
			t.Error(err)
		}
		w.doors.Store(nil)
		_, err := a.engine.obtain(t.Context(), one())
		says(t, err, ErrValidation)
		w.doors.Store(a)
		w.Break(acmetest.Down)
		_, err = a.engine.obtain(t.Context(), one())
		says(t, err, ErrUnreachable)

		w.Break(count)
		over, cancel := context.WithCancelCause(t.Context())
		cancel(errTryTimeout)
		_, err = a.engine.obtain(over, one())
		says(t, err, ErrUnreachable, "it is not done in")

		// In the middle of it. Only while the authority verifies the name, it
		// may become a failed validation.
		for path, want := range map[string]error{"/order-plz": ErrUnreachable, "/chalZ/": ErrValidation, "/finalize-order/": ErrUnreachable} {
			over, cancel = context.WithCancelCause(t.Context())
			w.Break(func(_ http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, path) {
					cancel(errTryTimeout)
				}
				return count(nil, r)
			})
			_, err = a.engine.obtain(over, one())
			says(t, err, want)
		}
	}
	w.Break(count)
	a.client.CloseIdleConnections()
	for deadline := time.Now().Add(2 * time.Minute); runtime.NumGoroutine() > before+2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
	asked := requests.Load()
	time.Sleep(300 * time.Millisecond)
	if requests.Load() != asked {
		t.Error("the authority is asked although nothing is ordered")
	}
	if keys, err := w.store.List(t.Context(), "challenges/"); err != nil || len(keys) > 0 {
		t.Errorf("challenges are left behind: %v, %v", keys, err)
	}
}

// gone fails when somebody still holds an order's account, as a Manager does
// whose timer runs.
func gone(t *testing.T, held weak.Pointer[ecdsa.PrivateKey]) {
	t.Helper()
	for range 100 {
		if runtime.GC(); held.Value() == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("somebody goes on with the order")
}

// A Manager whose order failed ends when it wants to try again, and asks
// nothing.
func TestAutocertDoesNotTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		client := &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			asked++
			return nil, unreachable(errors.New("down"))
		})}
		e := &autocertEngine{cfg: Config{Directory: "https://acme.example.org/dir"}, client: client}
		o := order{names: mail.Names, key: testKey(t, elliptic.P256()), account: testKey(t, elliptic.P256()), challenge: HTTP01, log: discard}
		held := weak.Make(o.account.(*ecdsa.PrivateKey))
		_, err := e.obtain(t.Context(), o)
		says(t, err, ErrUnreachable, "down")
		o = order{}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if asked != 1 {
			t.Errorf("it asked %d times", asked)
		}
		gone(t, held)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// P-384 works with autocert as well.
func TestAutocertP384(t *testing.T) {
	t.Parallel()
	w := newTown(t, acmetest.Options{})
	s := w.answering().Source(Order{Label: "mail", Names: []string{"mail.example.org"}, KeyType: P384})
	if err := s.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	cert, _ := s.Certificate()
	if key, ok := cert.Leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().BitSize != 384 {
		t.Errorf("its key is %T", cert.Leaf.PublicKey)
	}
}

// Whatever an authority says, the Manager sees challenges of one kind only, and
// an error is one of ours.
func FuzzOverseer(f *testing.F) {
	f.Add(200, "application/json", `{"status":"pending","identifier":{"type":"dns","value":"mail.example.org"},"challenges":[{"type":"http-01","url":"https://a/1","token":"t"},{"type":"dns-01"}]}`)
	f.Add(200, "application/json", `{"status":"invalid","challenges":[{"type":"http-01","url":"u","error":{"type":"urn:ietf:params:acme:error:dns","detail":"no"}}]}`)
	f.Add(403, "application/problem+json", `{"type":"urn:ietf:params:acme:error:caa","detail":"no","subproblems":[{"detail":"x","identifier":{"value":"y"}}]}`)
	f.Add(200, "application/pem-certificate-chain", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Add(200, "application/json", `{"newOrder":"https://a/o","identifiers":[],"error":null}`)
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		v := &overseer{ctx: t.Context(), order: order{challenge: HTTP01}, ended: make(chan struct{})}
		res := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}
		if err := v.hear(nil, res); err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%v", err)
		} else if err == nil && status < 400 {
			var said struct {
				Status     string
				Challenges []struct{ Type string }
			}
			left, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if json.Unmarshal(left, &said) == nil && said.Status == "pending" && !strings.HasPrefix(kind, "application/pem-certificate-chain") {
				for _, c := range said.Challenges {
					if c.Type != HTTP01 {
						t.Errorf("it sees %q", c.Type)
					}
				}
			}
		}
		if _, err := v.result(); err != nil {
			if text := err.Error(); len(text) > 8*maxDetail || strings.ContainsAny(text, "\x1b\n\r\x00") {
				t.Errorf("%q", text)
			}
		}
	})
}
