package acme

import (
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func challengeCertificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key := testKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Whichever replica the authority reaches gives the answer, until it is taken
// away; also where the store takes nothing, if it is the right one.
func TestChallengesAreShared(t *testing.T) {
	for _, full := range []bool{false, true} {
		h := newHouse(t)
		one, two := h.authority(), h.authority()
		one.Source(mail)
		two.Source(mail)
		if full {
			h.store.breaks(func(doing, _ string) error {
				if doing == "put" {
					return errors.New("disk full")
				}
				return nil
			})
		}
		cert := challengeCertificate(t, "mail.example.org")
		removeCert, err := one.challenges.presentCertificate(t.Context(), "mail.example.org", cert)
		if err != nil {
			t.Fatal(err)
		}
		removeText := one.challenges.presentResponse(t.Context(), "mail.example.org", "Token", "Token.thumb")
		hello := &tls.ClientHelloInfo{ServerName: "MAIL.example.org", SupportedProtos: []string{ALPN}}
		ask := func(a *Authority) (ok bool) {
			got, err := a.ChallengeCertificate(hello)
			text, err2 := a.ChallengeResponse(t.Context(), "mail.example.org:80", "Token")
			if err != nil && !errors.Is(err, ErrNoChallenge) || err2 != nil && !errors.Is(err2, ErrNoChallenge) {
				t.Error(err, err2)
			}
			if (err == nil) != (err2 == nil) {
				t.Errorf("one and not the other: %v, %v", err, err2)
			}
			return err == nil && got.Leaf.Equal(must(x509.ParseCertificate(cert.Certificate[0]))) && string(text) == "Token.thumb"
		}
		if !ask(one) {
			t.Error("who ordered has no answer")
		}
		if ask(two) == full {
			t.Errorf("the other replica has an answer: %v", !full)
		}
		removeCert()
		removeText()
		if ask(one) || ask(two) || h.store.has("challenges/") > 0 {
			t.Error("the answer is still there")
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Only what was asked for one of our names is answered, and for other names the
// store is not even looked at: everybody can ask.
func TestChallengesOfOthers(t *testing.T) {
	h := newHouse(t)
	a := h.authority()
	a.Source(mail)
	a.Source(Order{Label: "web", Names: []string{"web.example.org"}})
	ctx := t.Context()
	a.challenges.presentResponse(ctx, "mail.example.org", "Token", "Token.thumb")
	if _, err := a.challenges.presentCertificate(ctx, "mail.example.org", challengeCertificate(t, "mail.example.org")); err != nil {
		t.Fatal(err)
	}
	b := h.authority() // knows it from the store
	b.Source(mail)
	b.Source(Order{Label: "web", Names: []string{"web.example.org"}})
	for _, a := range []*Authority{a, b} {
		for _, q := range [][2]string{{"web.example.org", "Token"}, {"mail.example.org", "token"}, {"mail.example.org", "Tok"}, {"mail.example.org", "../Token"}} {
			if data, err := a.ChallengeResponse(ctx, q[0], q[1]); !errors.Is(err, ErrNoChallenge) {
				t.Errorf("%v: %q, %v", q, data, err)
			}
		}
		if _, err := a.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "web.example.org"}); !errors.Is(err, ErrNoChallenge) {
			t.Error(err)
		}
		before := h.store.gets
		for _, q := range [][2]string{{"other.example.org", "Token"}, {"", "Token"}, {"mail.example.org", ""}, {"mail.example.org", strings.Repeat("x", maxToken+1)}, {"mail.example.org.evil.example.net", "Token"}} {
			if _, err := a.ChallengeResponse(ctx, q[0], q[1]); !errors.Is(err, ErrNoChallenge) {
				t.Errorf("%v: %v", q, err)
			}
		}
		for _, name := range []string{"", "other.example.org", "../mail.example.org", "*.example.org"} {
			if _, err := a.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: name}); !errors.Is(err, ErrNoChallenge) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if h.store.gets != before {
			t.Error("the store was asked for what is not ours")
		}
	}
	h.store.breaks(func(string, string) error { return errors.New("down") })
	if _, err := b.ChallengeResponse(ctx, "mail.example.org", "Token"); err == nil || errors.Is(err, ErrNoChallenge) {
		t.Errorf("a store that is down: %v", err)
	}
}

// What a process left that died is no answer after an hour, and is swept up by
// the next that obtains a certificate; garbage too.
func TestLeftoverChallenges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.authority().challenges.presentResponse(t.Context(), "mail.example.org", "old", "x")
		h.store.Put(context.Background(), responseKey("garbage"), []byte("garbage"))
		a := h.authority()
		s := a.Source(mail)
		time.Sleep(challengeLife - time.Second)
		h.authority().challenges.presentResponse(t.Context(), "mail.example.org", "new", "y")
		if _, err := a.ChallengeResponse(t.Context(), "mail.example.org", "old"); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		for _, token := range []string{"old", "garbage"} {
			if _, err := a.ChallengeResponse(t.Context(), "mail.example.org", token); !errors.Is(err, ErrNoChallenge) {
				t.Errorf("%s: %v", token, err)
			}
		}
		if err := s.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := h.store.has("challenges/"); n != 1 {
			t.Errorf("%d answers are left", n)
		}
		if _, err := a.ChallengeResponse(t.Context(), "mail.example.org", "new"); err != nil {
			t.Error(err)
		}
	})
}

// Texts become elements of keys that the store takes, never the same for two.
func TestElement(t *testing.T) {
	seen := make(map[string]string)
	for _, text := range []string{"", ".", "..", "a", "A", "a/b", "a_b", "a b", "*.example.org", "_.example.org", ".example.org", "example.org", "ä", "ö", strings.Repeat("a", 300), strings.Repeat("a", 301)} {
		e := element(text)
		if other, ok := seen[e]; ok {
			t.Errorf("%q and %q become %q", text, other, e)
		}
		seen[e] = text
		if e == "" || e[0] == '.' || len(e) > 200 || strings.Trim(e, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			t.Errorf("%q becomes %q", text, e)
		}
	}
	if element("mail.example.org") != "mail.example.org" {
		t.Error("a plain name does not stay")
	}
}

// W-19: A store that hangs holds up no handshake and no request for long, and is said
// to hang.
func TestStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		a := New(Config{Name: "a", Directory: "https://acme.example.org/dir", AcceptTOS: true, Store: hanging{h.store}})
		a.engine, a.poll = h.fake, poll
		s := a.Source(mail)
		began := time.Now()
		if _, err := a.ChallengeResponse(t.Context(), "mail.example.org", "token"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request: %v", err)
		}
		if _, err := a.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "mail.example.org"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a handshake: %v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("they took %v", took)
		}
		defer h.keep(s)()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(h.log.String(), "the store cannot be read"); n != 1 {
			t.Errorf("it was said %d times", n)
		}
	})
}

// A hanging store answers nobody who reads.
type hanging struct{ *memory }

func (hanging) Get(ctx context.Context, _ string) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
