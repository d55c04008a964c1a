package config

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/certs/store"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// ask has a page answer one request.
func ask(p http.Handler, target, host string, inTLS bool) *http.Response {
	r := httptest.NewRequest("GET", target, nil)
	r.Host, r.TLS = host, nil
	if inTLS {
		r.TLS = &tls.ConnectionState{}
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result()
}

// W-11: who asks in cleartext for a name of a certificate of an HTTPS listener
// on port 443 is sent there, path and all; nobody is sent anywhere else.
func TestRedirect(t *testing.T) {
	src, err := certs.SelfSigned("www", []string{"www.example.org", "*.shop.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	listener := func(protocol string, mode gateway.Mode, address string) *gateway.Listener {
		return &gateway.Listener{
			Protocol: &upgraders.Protocol{Name: protocol, Pages: protocol == "web"}, Mode: mode,
			Addresses: []string{":1", address}, Certificates: certs.NewSet([]certs.Source{src}, "gw.example.org", true),
		}
	}
	front := listener("web", gateway.Auto, ":80")
	answer([]*gateway.Listener{listener("http", gateway.Implicit, "192.0.2.1:443"), front}, nil)
	for _, c := range []struct{ target, host, location string }{
		{"/", "www.example.org", "https://www.example.org/"},
		{"/a/b?c=d&e", "WWW.example.org:80", "https://WWW.example.org/a/b?c=d&e"},
		{"/%2e%2e//x", "one.shop.example.org.", "https://one.shop.example.org/%2e%2e//x"},
		{"//evil.example.net/", "www.example.org", "https://www.example.org//evil.example.net/"},
		{"/", "example.net", ""},
		{"/", "a.b.shop.example.org", ""},
		{"/", "gw.example.org", ""},
		{"/", "192.0.2.1", ""},
		{"/", "[2001:db8::1]:80", ""},
		{"/", "", ""},
	} {
		status := http.StatusPermanentRedirect
		if c.location == "" {
			status = http.StatusNotFound
		}
		if r := ask(front.Pages, c.target, c.host, false); r.StatusCode != status || r.Header.Get("Location") != c.location {
			t.Errorf("%s of %q: %d to %q; want %q", c.target, c.host, r.StatusCode, r.Header.Get("Location"), c.location)
		}
		if r := ask(front.Pages, c.target, c.host, true); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s of %q, in TLS: %d", c.target, c.host, r.StatusCode)
		}
	}
	for why, other := range map[string]*gateway.Listener{
		"another port":      listener("http", gateway.Implicit, ":8443"),
		"TLS by Upgrade":    listener("http", gateway.StartTLS, ":443"),
		"another protocol":  listener("tcp", gateway.Implicit, ":443"),
		"the pages' own":    listener("web", gateway.Auto, ":443"),
		"nobody's own port": listener("imap", gateway.Implicit, ":443"),
	} {
		answer([]*gateway.Listener{other, front}, nil)
		if r := ask(front.Pages, "/", "www.example.org", false); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d to %q", why, r.StatusCode, r.Header.Get("Location"))
		}
	}
}

// What is written leads there: an http listener with TLS on port 443, and a web
// listener on port 80.
func TestRedirectAsWritten(t *testing.T) {
	cfg, diags := loadText(t, "a.hcl", `certificate "www" {
  names       = ["www.example.org"]
  self_signed = true
}
backend "shop" { servers = ["192.0.2.80:8080"] }
listener "http" "shop" {
  address = [":443"]
  backend = backend.shop
}
listener "web" "front" { address = [":80"] }
`, Options{})
	if diags.HasErrors() {
		t.Fatal(text(diags))
	}
	r := ask(cfg.Gateway.Listeners[1].Pages, "/a", "www.example.org", false)
	if to := r.Header.Get("Location"); r.StatusCode != http.StatusPermanentRedirect || to != "https://www.example.org/a" {
		t.Errorf("%d to %q", r.StatusCode, to)
	}
}

// A shelf is a store in memory, which may be out of order.
type shelf struct {
	store.Store
	kept  map[string][]byte
	err   error
	asked int
}

func (s *shelf) Get(_ context.Context, key string) ([]byte, error) {
	s.asked++
	if data, ok := s.kept[key]; ok || s.err != nil {
		return data, s.err
	}
	return nil, store.ErrNotFound
}

func (s *shelf) String() string { return "shelf" }

// put lays out the answer to http-01, as a replica does that has ordered.
func (s *shelf) put(name, token, response string) {
	sum := sha256.Sum256([]byte(token))
	data, _ := json.Marshal(map[string]any{"name": name, "data": response, "until": time.Now().Add(time.Minute)})
	s.kept["challenges/http-01/"+hex.EncodeToString(sum[:])] = data
}

// The answer to http-01 is there for its name and token, whichever authority
// asks, in cleartext and in TLS, and nothing else is. What the store cannot say
// is no 404, which an authority would take for an answer.
func TestChallengePage(t *testing.T) {
	first, second := &shelf{kept: map[string][]byte{}}, &shelf{kept: map[string][]byte{}}
	one, two := acme.New(acme.Config{Name: "one", Store: first}), acme.New(acme.Config{Name: "two", Store: second})
	one.Source(acme.Order{Label: "a", Names: []string{"a.example.org"}})
	two.Source(acme.Order{Label: "b", Names: []string{"b.example.org"}})
	first.put("a.example.org", "token-a", "token-a.thumb")
	second.put("b.example.org", "token-b", "token-b.thumb")
	p := &pages{issuers: issuers{one, two}}
	for _, c := range []struct{ token, host, body string }{
		{"token-a", "a.example.org", "token-a.thumb"},
		{"token-b", "B.example.org:80", "token-b.thumb"},
		{"token-b", "a.example.org", ""},
		{"token-c", "a.example.org", ""},
		{"token-a", "c.example.org", ""},
		{"token-a/", "a.example.org", ""},
		{"", "a.example.org", ""},
	} {
		for _, inTLS := range []bool{false, true} {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", wellKnown+c.token, nil)
			r.Host, r.TLS = c.host, nil
			if inTLS {
				r.TLS = &tls.ConnectionState{}
			}
			p.ServeHTTP(w, r)
			if c.body == "" && w.Code == http.StatusNotFound && w.Body.Len() == 0 {
				continue
			}
			if w.Code != http.StatusOK || w.Body.String() != c.body || w.Header().Get("Content-Type") != "application/octet-stream" {
				t.Errorf("%s of %s: %d %q, want %q", c.token, c.host, w.Code, w.Body, c.body)
			}
		}
	}
	first.err = errors.New("the disk is gone")
	if r := ask(p, wellKnown+"token-x", "a.example.org", false); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a store out of order: %d", r.StatusCode)
	}
	before := first.asked + second.asked
	ask(p, wellKnown+"token-x", "nobody.example.org", false)
	if asked := first.asked + second.asked - before; asked > 0 {
		t.Errorf("the store is asked %d times for a name that nobody has", asked)
	}
}

// Of several authorities, the one that knows the name shows its certificate; a
// failure of one is told where no other knows.
func TestChallengeOfSeveral(t *testing.T) {
	broken := &shelf{err: errors.New("the disk is gone")}
	a := acme.New(acme.Config{Store: broken})
	a.Source(acme.Order{Label: "a", Names: []string{"a.example.org"}})
	all := issuers{acme.New(acme.Config{Store: &shelf{}}), a, acme.New(acme.Config{Store: &shelf{}})}
	if _, err := all.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "a.example.org"}); err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("a store out of order: %v", err)
	}
	if _, err := all.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "b.example.org"}); !errors.Is(err, acme.ErrNoChallenge) {
		t.Errorf("a name that nobody has: %v", err)
	}
}

const issuedText = `state { path = "STATE" }
acme "ca" {
  directory  = "https://ca.example.org/directory"
  email      = "EMAIL"
  accept_tos = true
}
certificate "mail" {
  names     = [NAMES]
  acme      = acme.ca
  bootstrap = "self_signed"
}
listener "web" "front" { address = [ADDRESSES] }
`

// What an authority issues outlives a reload that does not change its blocks:
// an order under way is not broken. What has changed is made anew, and nothing
// else is.
func TestIssuedOutlivesReload(t *testing.T) {
	state := t.TempDir()
	load := func(previous *Config, email, names, addresses string) *Config {
		t.Helper()
		text := strings.NewReplacer("STATE", state, "EMAIL", email, "NAMES", names, "ADDRESSES", addresses).Replace(issuedText)
		cfg, diags := loadText(t, "a.hcl", text, Options{Previous: previous})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return cfg
	}
	const email, names, both = "a@example.org", `"a.example.org", "b.example.org"`, `":443", ":80"`
	first := load(nil, email, names, both)
	same := load(first, email, `"A.example.org", "b.example.org"`, both)
	if !slices.Equal(same.Sources, first.Sources) || same.issuers[0] != first.issuers[0] {
		t.Error("made anew, and nothing had changed")
	}
	more := load(first, email, names+`, "c.example.org"`, both)
	if !slices.Equal(more.Sources[:2], first.Sources) || len(more.Sources) != 3 || more.issuers[0] != first.issuers[0] {
		t.Error("a new name makes others anew")
	}
	for what, cfg := range map[string]*Config{
		"email":      load(first, "b@example.org", names, both),
		"challenges": load(first, email, names, `":80"`),
		"nothing":    load(nil, email, names, both),
	} {
		if cfg.issuers[0] == first.issuers[0] || cfg.Sources[0] == first.Sources[0] {
			t.Errorf("%s: taken over, and it has changed", what)
		}
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) > 0 {
		t.Errorf("a configuration that is loaded makes %v, %v", entries, err)
	}
}

// Those challenges are used that the listeners answer, if none is written.
func TestAnsweredChallenges(t *testing.T) {
	const head = `acme "ca" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  MORE
}
backend "b" {
  servers = ["192.0.2.1:25"]
  send    = "proxy-v2"
}
`
	web := func(addresses string) string { return "listener \"web\" \"w\" { address = [" + addresses + "] }\n" }
	listener := func(protocol, address, mode string) string {
		return "listener \"" + protocol + "\" \"l\" {\n address = [\"" + address + "\"]\n" + mode + "\nbackend = backend.b\n}\n"
	}
	for name, c := range map[string]struct{ more, listeners, want string }{
		"both":             {"", web(`":443", ":80"`), "tls-alpn-01 http-01"},
		"one port":         {"", web(`"192.0.2.1:80"`), "http-01"},
		"the other":        {"", web(`"[::]:443", ":8080"`), "tls-alpn-01"},
		"mapped":           {"", web(`":8443", ":8080"`), "tls-alpn-01 http-01"},
		"implicit":         {"", listener("tcp", ":443", ""), "tls-alpn-01"},
		"well-known":       {"", listener("imap", ":993", ""), "tls-alpn-01"},
		"auto":             {"", listener("imap", ":143", `mode = "auto"`), "tls-alpn-01"},
		"beside STARTTLS":  {"", web(`":80"`) + listener("imap", ":143", ""), "http-01"},
		"STARTTLS on 443":  {"", web(`":80"`) + listener("imap", ":443", `mode = "starttls"`), "http-01"},
		"better elsewhere": {"", web(`":80"`) + listener("imap", ":993", ""), "http-01"},
		"written":          {`challenges = ["http-01"]`, web(`":443"`), "http-01"},
	} {
		l := newTestLoader(Options{})
		l.decodeRoot(l.parse([]source{{"a.hcl", []byte(strings.Replace(head, "MORE", c.more, 1) + c.listeners)}}))
		if l.diags.HasErrors() {
			t.Fatal(name, l.diags)
		}
		if got := strings.Join(l.answered(l.root.ACME[0]), " "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What a store holds that cannot be used is told of before it is missed.
func TestUnusableStore(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "acme"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("STATE", state, "EMAIL", "a@example.org", "NAMES", `"a.example.org"`, "ADDRESSES", `":443"`).Replace(issuedText)
	_, diags := loadText(t, "a.hcl", text, Options{})
	if diags.HasErrors() || diags.Warnings() != 1 || diags.list[0].Summary != "What the store holds cannot be used" {
		t.Errorf("%v", diags)
	}
}
