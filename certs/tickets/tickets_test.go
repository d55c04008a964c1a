package tickets

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/certs/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A house has a store, a file, and gateways that share them.
type house struct {
	*testing.T
	store *flaky
	file  string
	log   *bytes.Buffer
}

func newHouse(t *testing.T) *house {
	dir := t.TempDir()
	return &house{t, &flaky{Store: store.Open(filepath.Join(dir, "store"))}, filepath.Join(dir, "state", "tickets.key"), &bytes.Buffer{}}
}

// flaky is a store that may fail.
type flaky struct {
	store.Store
	down, readOnly atomic.Bool
	puts           atomic.Int32
}

var errDown = errors.New("the disk is gone")

func (f *flaky) Get(ctx context.Context, key string) ([]byte, error) {
	if f.down.Load() {
		return nil, errDown
	}
	return f.Store.Get(ctx, key)
}

func (f *flaky) Put(ctx context.Context, key string, data []byte) error {
	if f.down.Load() || f.readOnly.Load() {
		return errDown
	}
	f.puts.Add(1)
	return f.Store.Put(ctx, key, data)
}

func (h *house) ring(file string) *Ring {
	return New(Options{Store: h.store, SecretFile: file, Make: true})
}

// look is what Keep does at each tick.
func (h *house) look(r *Ring) error {
	return r.look(h.Context(), slog.New(slog.NewTextHandler(h.log, nil)))
}

func (h *house) mustLook(rings ...*Ring) {
	h.Helper()
	for _, r := range rings {
		if err := h.look(r); err != nil {
			h.Fatal(err)
		}
	}
}

func (h *house) names() []string {
	h.Helper()
	names, err := h.store.List(h.Context(), "")
	if err != nil {
		h.Fatal(err)
	}
	return names
}

func seal(r *Ring) string {
	_, secret, _ := r.Secrets()
	return string(secret)
}

func opens(r *Ring, secret string) bool {
	_, s, open := r.Secrets()
	for _, o := range append(open, s) {
		if secret != "" && string(o) == secret {
			return true
		}
	}
	return false
}

// Replicas, and the same gateway after a restart, seal and open with the same
// secrets; a ring that has not looked yet has none, and making it leaves no
// trace.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		a, b := h.ring(h.file), h.ring(h.file)
		if generation, s, open := a.Secrets(); generation != 0 || s != nil || open != nil {
			t.Errorf("a new ring has secrets: %d %x %x", generation, s, open)
		}
		if names := h.names(); len(names) > 0 {
			t.Errorf("making a ring wrote %q", names)
		}
		if _, err := os.Stat(h.file); err == nil {
			t.Error("making a ring made the file of the secret")
		}
		h.mustLook(a, b)
		if s := seal(a); len(s) != 32 || seal(b) != s {
			t.Errorf("%x and %x seal", s, seal(b))
		}
		if info, err := os.Stat(h.file); err != nil || info.Mode() != 0o600 {
			t.Errorf("the file of the secret: %v, %v", info.Mode(), err)
		}
	})
}

// T-06: each day has its secret, which all replicas know before it seals anything;
// it opens until it is seven days old, to the second, and then it is nowhere:
// not in memory, whatever the store does, and not in the store.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		a, b := h.ring(h.file), h.ring(h.file)
		h.mustLook(a, b)
		born := time.Now()
		first, last := seal(a), seal(a)
		days := map[string]bool{first: true}
		for time.Since(born) < life-time.Hour {
			time.Sleep(10 * time.Minute)
			// Only one of them looks at a time, the other a while later.
			h.mustLook(a)
			if s := seal(a); s != last {
				if !opens(b, s) {
					t.Fatalf("after %s a seals with what b does not open", time.Since(born))
				}
				last = s
				days[s] = true
			}
			if time.Since(born)%(30*time.Minute) == 0 {
				h.mustLook(b)
			}
			if !opens(a, first) || !opens(b, first) {
				t.Fatalf("the first secret is gone after %s", time.Since(born))
			}
		}
		if len(days) != 7 {
			t.Errorf("%d secrets in 7 days", len(days))
		}
		h.store.down.Store(true)
		time.Sleep(time.Until(born.Add(life - time.Second)))
		if !opens(b, first) {
			t.Error("gone a second early")
		}
		time.Sleep(time.Second)
		if opens(a, first) || opens(b, first) {
			t.Error("a secret of seven days opens")
		}
		h.store.down.Store(false)
		h.mustLook(a)
		s, err := a.opts.secret()
		if err != nil {
			t.Fatal(err)
		}
		data, err := h.store.Get(t.Context(), s.name)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := s.open(data)
		if err != nil || len(stored) != 7 {
			t.Errorf("%d keys in the store: %v", len(stored), err)
		}
		for _, k := range slices.Concat(stored, *a.keys.Load()) {
			if string(k.Secret) == first {
				t.Error("a secret of seven days is still kept")
			}
		}
		if opens(h.ring(h.file), first) {
			t.Error("and found by others")
		}
	})
}

// A secret without a successor seals for two days and opens for seven, to the
// second, though nobody looks at the store.
func TestLastSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		r := h.ring(h.file)
		h.mustLook(r)
		born, s := (*r.keys.Load())[0].From, seal(r)
		for _, c := range []struct {
			after        time.Duration
			seals, opens bool
		}{
			{rotation + grace - 1, true, true}, {rotation + grace, false, true}, {life - 1, false, true}, {life, false, false},
		} {
			time.Sleep(time.Until(born.Add(c.after)))
			if seals, opens := seal(r) == s, opens(r, s); seals != c.seals || opens != c.opens {
				t.Errorf("after %s: seals %v, opens %v", c.after, seals, opens)
			}
		}
	})
}

// Two secrets of different days are different generations, and nothing is
// computed while nothing changes.
func TestGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		r := h.ring(h.file)
		h.mustLook(r)
		one, _, _ := r.Secrets()
		h.mustLook(r)
		if same, _, _ := r.Secrets(); same != one {
			t.Errorf("generation %d, then %d", one, same)
		}
		if n := testing.AllocsPerRun(10, func() { r.Secrets() }); n > 0 {
			t.Errorf("%v allocations", n)
		}
		time.Sleep(rotation)
		h.mustLook(r)
		if other, _, _ := r.Secrets(); other == one {
			t.Error("the generation stays and the secrets do not")
		}
	})
}

// Of many gateways that start at once with nothing, one makes the secret: of
// the file, and of the tickets.
func TestColdStart(t *testing.T) {
	h := newHouse(t)
	rings := make([]*Ring, 8)
	var wg sync.WaitGroup
	for i := range rings {
		rings[i] = h.ring(h.file)
		wg.Go(func() {
			if err := rings[i].look(t.Context(), slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, r := range rings[1:] {
		if s := seal(r); s == "" || s != seal(rings[0]) {
			t.Errorf("%x and %x", s, seal(rings[0]))
		}
	}
	if n := h.store.puts.Load(); n != 1 {
		t.Errorf("%d secrets were made", n)
	}
	if entries, _ := os.ReadDir(filepath.Dir(h.file)); len(entries) != 1 {
		t.Errorf("beside the file of the secret: %v", entries)
	}
}

// Who reads the store, and all its past, finds no secret there, neither as it
// is nor encoded; one changed bit, another name or another date opens nothing.
func TestStoreTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		r := h.ring(h.file)
		var backups bytes.Buffer
		var data []byte
		for range 3 {
			h.mustLook(r)
			for _, name := range h.names() {
				data, _ = h.store.Get(t.Context(), name)
				backups.Write(data)
			}
			time.Sleep(rotation)
		}
		text, _ := os.ReadFile(h.file)
		for _, k := range *r.keys.Load() {
			encoded, _ := json.Marshal(k.Secret)
			for _, s := range []string{string(k.Secret), strings.Trim(string(encoded), `"`), fmt.Sprintf("%x", k.Secret), string(bytes.TrimSpace(text))} {
				if bytes.Contains(backups.Bytes(), []byte(s)) {
					t.Error("a secret is in the store")
				}
			}
		}
		key, err := hkdf.Key(sha256.New, bytes.TrimSpace(text), nil, "sallyport tickets: key", 32)
		if err != nil {
			t.Fatal(err)
		}
		if names := strings.Join(h.names(), " "); strings.Contains(names, fmt.Sprintf("%x", key[:4])) {
			t.Errorf("a name tells of the key: %s", names)
		}
		s, err := r.opts.secret()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.open(data); err != nil {
			t.Fatal(err)
		}
		var e envelope
		json.Unmarshal(data, &e)
		for what, forge := range map[string]func(e *envelope, s *secret){
			"a bit":  func(e *envelope, _ *secret) { e.Sealed[20] ^= 1 },
			"a life": func(e *envelope, _ *secret) { e.Until = e.Until.Add(time.Hour) },
			"a name": func(_ *envelope, s *secret) { s.name = prefix + "0011223344556677" },
			"half":   func(e *envelope, _ *secret) { e.Sealed = e.Sealed[:len(e.Sealed)/2] },
			"none":   func(e *envelope, _ *secret) { e.Sealed = nil },
		} {
			forged, by := e, *s
			forged.Sealed = bytes.Clone(e.Sealed)
			forge(&forged, &by)
			raw, _ := json.Marshal(forged)
			if _, err := by.open(raw); !errors.Is(err, errDamaged) {
				t.Errorf("another %s: %v", what, err)
			}
		}
	})
}

// While the store cannot be reached the ring goes on with what it has, for as
// long as that is good, and says so once; then tickets are the gateway's own
// until the store is back.
func TestStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		cold := h.ring(h.file)
		h.store.down.Store(true)
		if err := h.look(cold); !errors.Is(err, errDown) || seal(cold) != "" {
			t.Errorf("%v, %x", err, seal(cold))
		}
		h.store.down.Store(false)

		r := h.ring(h.file)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Keep(ctx, slog.New(slog.NewTextHandler(h.log, nil)))
		}()
		<-r.Loaded()
		s := seal(r)
		h.store.readOnly.Store(true)
		time.Sleep(rotation + grace - time.Second)
		if s == "" || seal(r) != s {
			t.Errorf("%x sealed, and %x does while no successor can be stored", s, seal(r))
		}
		time.Sleep(2 * time.Second)
		if seal(r) != "" || !opens(r, s) {
			t.Errorf("after two days without a successor %x seals; the old one opens: %v", seal(r), opens(r, s))
		}
		h.store.readOnly.Store(false)
		time.Sleep(2 * lookInterval)
		if now := seal(r); now == "" || now == s || !opens(r, s) {
			t.Errorf("the store is back: %x seals, the old one opens: %v", now, opens(r, s))
		}
		cancel()
		<-done
		for text, want := range map[string]int{"cannot be kept": 1, "can be kept again": 1, "ticket key made": 2} {
			if got := strings.Count(h.log.String(), text); got != want {
				t.Errorf("%q was said %d times, not %d:\n%s", text, got, want, h.log)
			}
		}
	})
}

// What is damaged in the store is made anew; what another version wrote is left
// alone.
func TestForeignContent(t *testing.T) {
	for content, want := range map[string]string{
		"":                                     "",
		"{":                                    "",
		`{"format":1}`:                         "",
		`{}`:                                   "",
		`{"format":1,"sealed":"AAAA"}`:         "",
		`{"format":2,"sealed":"AAAA"}`:         "another version",
		strings.Repeat("[", 1<<16):             "",
		`{"format":1,"until":"` + "\x00" + `"`: "",
	} {
		h := newHouse(t)
		r := h.ring(h.file)
		s, err := r.opts.secret()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.store.Put(t.Context(), s.name, []byte(content)); err != nil {
			t.Fatal(err)
		}
		err = h.look(r)
		after, _ := h.store.Get(t.Context(), s.name)
		switch {
		case want == "" && (err != nil || seal(r) == "" || !strings.Contains(h.log.String(), "damaged")):
			t.Errorf("%.40q: %v\n%s", content, err, h.log)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || seal(r) != "" || string(after) != content):
			t.Errorf("%.40q: %v", content, err)
		}
	}
}

// Gateways with different files do not disturb each other, and are told of each
// other; what nobody can open any more is removed when it is out of date.
func TestDifferentFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		a, b := h.ring(h.file), h.ring(h.file+"2")
		h.mustLook(a)
		if strings.Contains(h.log.String(), "another gateway") {
			t.Errorf("one gateway: %s", h.log)
		}
		h.mustLook(b)
		if seal(a) == seal(b) || opens(b, seal(a)) || len(h.names()) != 2 {
			t.Errorf("%x %x %q", seal(a), seal(b), h.names())
		}
		if !strings.Contains(h.log.String(), "another gateway") {
			t.Errorf("nobody was told: %s", h.log)
		}
		time.Sleep(life - time.Hour)
		h.mustLook(b)
		if len(h.names()) != 2 {
			t.Errorf("removed while it is good: %q", h.names())
		}
		time.Sleep(rotation)
		h.mustLook(b)
		if len(h.names()) != 1 {
			t.Errorf("still there: %q", h.names())
		}
	})
}

// A clock that is far ahead on one machine leaves the others their secrets
// once they look again, and no secret is good for longer than seven days.
func TestWrongClock(t *testing.T) {
	h := newHouse(t)
	var future string
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10 * 365 * 24 * time.Hour)
		r := h.ring(h.file)
		if err := r.look(context.Background(), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		future = seal(r)
	})
	synctest.Test(t, func(t *testing.T) {
		r := h.ring(h.file)
		if err := r.look(context.Background(), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if s := seal(r); s == "" || s == future || opens(r, future) {
			t.Errorf("%x seals, %x is of the future", s, future)
		}
	})
}

// A file that is no secret is refused with words on what to do.
func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"":                          "at least 32",
		"short\n":                   "at least 32",
		strings.Repeat("\n", 100):   "at least 32",
		strings.Repeat("a", 5000):   "more than 4096",
		strings.Repeat("a", 32):     "",
		strings.Repeat("\x00", 100): "",
	} {
		file := filepath.Join(dir, "secret")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := CheckSecret(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "openssl rand")) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if err := CheckSecret(filepath.Join(dir, "missing")); err == nil || !strings.Contains(err.Error(), "openssl rand") {
		t.Errorf("a missing file: %v", err)
	}
	if err := CheckSecret(dir); err == nil {
		t.Error("a directory is a secret")
	}
	if err := New(Options{SecretFile: filepath.Join(dir, "missing")}).look(t.Context(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that the operator names was made")
	}
	// The white space at its end does not count: an editor adds it.
	var names []string
	for _, end := range []string{"", "\n", "\r\n"} {
		file := filepath.Join(dir, "secret")
		os.WriteFile(file, []byte(strings.Repeat("s", 40)+end), 0o600)
		s, err := (&Options{SecretFile: file}).secret()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, s.name)
	}
	if names[0] != names[1] || names[1] != names[2] {
		t.Errorf("%q", names)
	}
}
