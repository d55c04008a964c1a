package integration

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sharing is mx whose tickets are good at every gateway with the same store
// and secret.
const sharing = `
state { path = "STATE" }
acme "tickets" {
  directory  = "https://acme.example.org/directory"
  accept_tos = true
  store "dir" {
    path        = "STORE"
    secret_file = "SECRET"
  }
}
tls "shared" { tickets = "shared" }
`

// A ticketHouse is where gateways that share tickets keep them.
type ticketHouse struct {
	t             *testing.T
	store, secret string
}

func newTicketHouse(t *testing.T) *ticketHouse {
	h := &ticketHouse{t: t, store: filepath.Join(t.TempDir(), "store")}
	h.secret = h.newSecret("secret", "s")
	return h
}

func (h *ticketHouse) newSecret(name, text string) string {
	file := filepath.Join(filepath.Dir(h.store), name)
	if err := os.WriteFile(file, []byte(strings.Repeat(text, 40)), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// hcl is the configuration of one more gateway, with a state directory of its
// own.
func (h *ticketHouse) hcl() string {
	text := strings.NewReplacer("STATE", h.t.TempDir(), "STORE", h.store, "SECRET", h.secret).Replace(sharing)
	return text + strings.ReplaceAll(mx, "  backend ", "  tls      = tls.shared\n  backend ")
}

// resumes shakes hands by STARTTLS, or on the implicit port, and reports whether
// a ticket in the cache was good.
func resumes(t *testing.T, gw *gateway, listener string, version uint16, cache tls.ClientSessionCache) bool {
	t.Helper()
	cfg := lab.pki.client("localhost")
	cfg.ClientSessionCache = cache
	cfg.MinVersion, cfg.MaxVersion = version, version
	c := dial(t, loopback(), gw.addr(listener))
	if listener == "mx" {
		c.smtpTLS(cfg)
	} else {
		c.tls(cfg)
		c.line() // the ticket comes before the greeting
	}
	defer c.conn.Close()
	return c.state().DidResume
}

// T-06: shared tickets are good after a restart and at another replica, with Go and
// with OpenSSL, by STARTTLS and from the first byte. Controls: those of TLS 1.2
// are not, nor those that a gateway with another secret gets to see, nor any
// with tickets in memory.
func TestSharedTickets(t *testing.T) {
	t.Parallel()
	h := newTicketHouse(t)
	hcl := h.hcl()
	first := serve(t, hcl)
	first.waitLog("ticket key made")
	fresh := func() oneTicket { return oneTicket{tls.NewLRUClientSessionCache(1)} }
	modern, old := map[string]oneTicket{}, fresh()
	for _, listener := range []string{"mx", "smtps"} {
		modern[listener] = fresh()
		resumes(t, first, listener, tls.VersionTLS13, modern[listener])
	}
	resumes(t, first, "smtps", tls.VersionTLS12, old)
	if !resumes(t, first, "smtps", tls.VersionTLS12, old) {
		t.Error("control: a ticket of TLS 1.2 is not good where it was issued")
	}
	session := filepath.Join(t.TempDir(), "session")
	openssl := func(gw *gateway, flag string) result {
		return client(t, "QUIT\r\n", append(sclient(gw.addr("mx"), lab.pki.ca, "-starttls", "smtp", "-servername", "localhost", "-tls1_3"), flag, session)...).ok(t)
	}
	openssl(first, "-sess_out").says(t, "New, TLSv1.3")
	first.stop()

	restarted, replica := serve(t, hcl), serve(t, h.hcl())
	for what, gw := range map[string]*gateway{"after a restart": restarted, "at another replica": replica} {
		for listener, cache := range modern {
			if !resumes(t, gw, listener, tls.VersionTLS13, cache) {
				t.Errorf("%s, %s: not resumed", what, listener)
			}
		}
		if resumes(t, gw, "mx", tls.VersionTLS13, modern["smtps"]) {
			t.Errorf("%s: a ticket of smtps is good at mx", what)
		}
		modern["smtps"] = fresh()
		resumes(t, gw, "smtps", tls.VersionTLS13, modern["smtps"])
		copied := fresh()
		state, _ := old.Get("")
		copied.Put("", state)
		if resumes(t, gw, "smtps", tls.VersionTLS12, copied) {
			t.Errorf("%s: a ticket of TLS 1.2 is good", what)
		}
		openssl(gw, "-sess_in").says(t, "Reused, TLSv1.3")
	}

	h.secret = h.newSecret("another", "o")
	stranger := serve(t, h.hcl())
	stranger.waitLog("another gateway keeps its ticket keys in this store under another secret")
	for listener, cache := range modern {
		if resumes(t, stranger, listener, tls.VersionTLS13, cache) {
			t.Errorf("a gateway with another secret: %s resumed", listener)
		}
	}
	openssl(stranger, "-sess_in").says(t, "New, TLSv1.3")

	// What a thief of the store finds.
	err := filepath.Walk(h.store, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A gateway whose store cannot be used says so, serves, and resumes its own
// tickets with keys in memory. Control: no other gateway does.
func TestSharedTicketsWithoutStore(t *testing.T) {
	t.Parallel()
	h := newTicketHouse(t)
	if err := os.WriteFile(h.store, []byte("this is no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	hcl := h.hcl()
	gw, other := serve(t, hcl), serve(t, h.hcl())
	gw.waitLog("shared ticket keys cannot be kept.*" + filepath.Base(h.store))
	cache := oneTicket{tls.NewLRUClientSessionCache(1)}
	resumes(t, gw, "mx", tls.VersionTLS13, cache)
	if !resumes(t, gw, "mx", tls.VersionTLS13, cache) {
		t.Error("not resumed with a key in memory")
	}
	if resumes(t, other, "mx", tls.VersionTLS13, cache) {
		t.Error("control: resumed elsewhere, without a store")
	}
}
