package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/config"
	"github.com/sallyport/sallyport/gateway"
)

// slowSource is a certificate whose renewal takes a time and comes to what the
// test wants.
type slowSource struct {
	*certs.SelfSignedSource
	name  string
	takes time.Duration
	fails error
	next  *certs.SelfSignedSource
	cur   atomic.Pointer[certs.SelfSignedSource]
	gone  chan struct{} // closed when a renewal was given up
}

var _ renewable = (*slowSource)(nil)

func newSlowSource(t *testing.T, name string) *slowSource {
	t.Helper()
	issue := func() *certs.SelfSignedSource {
		src, err := certs.SelfSigned(name, []string{"mail.example.org"})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	s := &slowSource{SelfSignedSource: issue(), name: name, next: issue(), gone: make(chan struct{})}
	s.cur.Store(s.SelfSignedSource)
	return s
}

func (s *slowSource) Certificate() (*tls.Certificate, error) { return s.cur.Load().Certificate() }

func (s *slowSource) Renew(ctx context.Context) error {
	select {
	case <-ctx.Done():
		close(s.gone)
		return ctx.Err()
	case <-time.After(s.takes):
	}
	if s.fails == nil {
		s.cur.Store(s.next)
	}
	return s.fails
}

// asking runs a control socket for sources, and returns a configuration that
// leads to it.
func asking(t *testing.T, sources ...certs.Source) (configPath string) {
	t.Helper()
	dir := t.TempDir()
	configPath = filepath.Join(dir, "a.hcl")
	socket := filepath.Join(dir, "s")
	if err := os.WriteFile(configPath, []byte(`admin { control = "s" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{Gateway: &gateway.Config{}, Sources: sources}
	mux := http.NewServeMux()
	serveCerts(mux, func() *config.Config { return cfg })
	log, _ := newLogger(io.Discard)
	c := bindControl(socket, mux, log)
	c.serve()
	t.Cleanup(c.close)
	return configPath
}

// Renewing says what it does while it does it, and what came of it: of each
// certificate of a block, in turn, and that one of them failed fails it.
func TestRenew(t *testing.T) {
	good, bad, other := newSlowSource(t, "mail/imap.example.org"), newSlowSource(t, "mail/smtp.example.org"), newSlowSource(t, "mailing")
	bad.fails = errors.New("the authority said:\n\x1b[1mno")
	path := asking(t, good, bad, other)
	var stdout, stderr bytes.Buffer
	if code := run([]string{"certs", "renew", "mail", "-c", path}, nil, &stdout, &stderr); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if !strings.HasPrefix(stdout.String(), "certificate mail/imap.example.org: renewed, valid until 20") || !strings.HasSuffix(stdout.String(), "(89 days left); its key is new, and so are its TLSA records (certs show)\n") || strings.Count(stdout.String(), "\n") != 1 {
		t.Errorf("stdout: %s", &stdout)
	}
	if want := "sallyport: certificate mail/imap.example.org: ordering a new one\nsallyport: certificate mail/smtp.example.org: ordering a new one\nsallyport: certificate mail/smtp.example.org: not renewed: the authority said:??[1mno\n"; stderr.String() != want {
		t.Errorf("stderr: %q", &stderr)
	}
	if other.cur.Load() == other.next {
		t.Error("a certificate was renewed whose name only begins like the one that was asked for")
	}

	good.next = good.cur.Load()
	stdout.Reset()
	if code := run([]string{"certs", "renew", "mail/imap.example.org", "-c", path}, nil, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "its key is the old one, and so are its TLSA records") {
		t.Errorf("exit code %d: %s", code, &stdout)
	}
	stdout.Reset()
	if code := run([]string{"certs", "renew", "mailing", "--json", "-c", path}, nil, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), `"name": "mailing"`) {
		t.Errorf("exit code %d: %s", code, &stdout)
	}
}

// A renewal that takes long gives a sign of life now and then.
func TestRenewTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSlowSource(t, "mail")
		src.takes = 12 * time.Second
		var said []int
		e := renewOne(t.Context(), src, &config.Config{Gateway: &gateway.Config{}}, func(e renewEvent) { said = append(said, e.Seconds) })
		if !slices.Equal(said, []int{0, 5, 10}) || e.Seconds != 12 || e.Done == nil || e.Error != "" {
			t.Errorf("said %v, then %+v", said, e)
		}
	})
}

// Each certificate of a block has the time of an order, however many there are
// and however long the records of one may take.
func TestRenewMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := &config.Config{Gateway: &gateway.Config{}}
		for _, name := range []string{"mail/imap.example.org", "mail/smtp.example.org"} {
			src := newSlowSource(t, name)
			src.takes = 125 * time.Minute
			cfg.Sources = append(cfg.Sources, src)
		}
		w := httptest.NewRecorder()
		renewCerts(w, httptest.NewRequestWithContext(t.Context(), "POST", "/", nil), cfg, "mail")
		if said := w.Body.String(); strings.Contains(said, "error") || strings.Count(said, `"done":`) != 2 {
			t.Errorf("%.2000s", said)
		}
	})
}

// Who goes away takes the order back.
func TestRenewGivenUp(t *testing.T) {
	src := newSlowSource(t, "mail")
	src.takes = time.Hour
	path := asking(t, src)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	begun := make(chan struct{}, 100)
	go func() {
		ended <- callControl(ctx, "POST", path, nil, "/certs/mail/renew", func(r io.Reader) error {
			for {
				if _, err := r.Read(make([]byte, 1000)); err != nil {
					return err
				}
				begun <- struct{}{}
			}
		})
	}()
	<-begun
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	select {
	case <-src.gone:
	case <-time.After(10 * time.Second):
		t.Error("the renewal goes on")
	}
}

// A gateway that ends in the middle has not renewed, and is not said to have.
func TestRenewCutOff(t *testing.T) {
	for _, answer := range []string{"", `{"name":"mail"}` + "\n", `{"name":"mail","seconds":5}` + "\n", `{"na`} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.hcl")
		if err := os.WriteFile(path, []byte(`admin { control = "s" }`), 0o600); err != nil {
			t.Fatal(err)
		}
		log, _ := newLogger(io.Discard)
		c := bindControl(filepath.Join(dir, "s"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, answer) }), log)
		c.serve()
		var stdout, stderr bytes.Buffer
		if code := run([]string{"certs", "renew", "mail", "-c", path}, nil, &stdout, &stderr); code != exitFailed || stdout.Len() > 0 || !strings.Contains(stderr.String(), "answer of the gateway") {
			t.Errorf("%q: exit code %d, %q, %q", answer, code, &stdout, &stderr)
		}
		c.close()
	}
}
