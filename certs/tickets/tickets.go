// Package tickets keeps the secrets of TLS session tickets (RFC 8446, 4.6.1)
// where they outlive a process and where replicas find them: sealed, in a
// store.
//
// A Ring seals tickets with a new secret each day and opens them with the old
// ones until these are seven days old. Who reads the store, or a backup of it,
// finds the secrets encrypted with AES-256-GCM under a key that is not there:
// it is derived (HKDF-SHA256) from a file of 32 bytes or more outside of the
// store, which every replica needs. A key that is derived from what is in the
// store, such as the account key, would protect from nobody who has the store.
// Who has both, store and file, can open tickets of the last seven days: he
// learns the client certificates in them and can resume sessions in the
// client's place, or in the gateway's, but reads nothing that was recorded,
// since a resumption in TLS 1.3 makes new keys (RFC 8446, 2.2).
//
// The name of what is stored is derived from the file, too. Gateways whose
// files differ do not disturb each other: each keeps a ring of its own, and
// says that there is another. Nobody can open what is left of a lost file, and
// the others remove it when it is out of date.
package tickets

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/certs/store"
)

const (
	rotation = 24 * time.Hour     // how long a secret seals
	life     = 7 * 24 * time.Hour // and opens: no ticket is good for longer (RFC 8446, 4.6.1)
	ahead    = time.Hour          // how long before its day a secret is made, for all replicas to know it by then
	grace    = rotation           // how long one may seal whose successor cannot be stored

	lookInterval = time.Minute
	lookTimeout  = 20 * time.Second
)

// Options says where a Ring keeps its secrets.
type Options struct {
	Store store.Store

	// SecretFile is what the secrets are sealed under in the store. Make says
	// that it is made where it is not there.
	SecretFile string
	Make       bool
}

// A Ring holds the secrets of session tickets. It is ready once Keep has looked
// at the store for the first time; until then, and while the store cannot be
// read, it has no secrets or those it had.
type Ring struct {
	opts Options

	keys   atomic.Pointer[[]key] // newest first
	view   atomic.Pointer[view]
	views  atomic.Uint64
	loaded chan struct{}
	once   sync.Once
}

// A key is one secret and when it begins to seal.
type key struct {
	From   time.Time `json:"from"`
	Secret []byte    `json:"secret"`
}

// New returns a Ring without secrets. It touches neither store nor file.
func New(opts Options) *Ring {
	return &Ring{opts: opts, loaded: make(chan struct{})}
}

// Options returns what the Ring was made with.
func (r *Ring) Options() Options { return r.opts }

// Loaded is closed when Keep has looked for the first time, whatever came of
// it.
func (r *Ring) Loaded() <-chan struct{} { return r.loaded }

// A view is what the secrets are good for during some time.
type view struct {
	generation uint64
	begin, end time.Time
	seal       []byte
	open       [][]byte
	of         *[]key
}

// Secrets returns what seals new tickets, nil for nothing, and what opens older
// ones. A secret is gone when its time is over, whether or not the store can
// be reached. The generation is another one whenever the secrets are. Secrets
// does not block.
func (r *Ring) Secrets() (generation uint64, seal []byte, open [][]byte) {
	now, keys := time.Now(), r.keys.Load()
	if keys == nil {
		return 0, nil, nil
	}
	v := r.view.Load()
	if v == nil || v.of != keys || now.Before(v.begin) || !now.Before(v.end) {
		v = look(keys, now)
		v.generation = r.views.Add(1)
		r.view.Store(v)
	}
	return v.generation, v.seal, v.open
}

// look finds what keys are good for now, and until when that is so.
func look(keys *[]key, now time.Time) *view {
	v := &view{of: keys, begin: now, end: now.Add(life)}
	until := func(t time.Time) {
		if now.Before(t) && t.Before(v.end) {
			v.end = t
		}
	}
	for _, k := range *keys { // newest first
		until(k.From)
		until(k.From.Add(rotation + grace))
		until(k.From.Add(life))
		begun, void := !now.Before(k.From), k.void(now)
		switch {
		case void:
		case begun && v.seal == nil && now.Before(k.From.Add(rotation+grace)):
			v.seal = k.Secret
		default:
			v.open = append(v.open, k.Secret)
		}
	}
	return v
}

// void reports whether a key is too old, or further in the future than any
// replica whose clock is right makes one.
func (k *key) void(now time.Time) bool {
	return !now.Before(k.From.Add(life)) || k.From.After(now.Add(2*rotation))
}

// next returns when the key after those that are there must begin, if it has to
// be made now.
func next(keys []key, now time.Time) (from time.Time, due bool) {
	if len(keys) == 0 {
		return now, true
	}
	from = keys[0].From.Add(rotation)
	if now.Before(from.Add(-ahead)) {
		return from, false
	}
	if from.Before(now) {
		from = now
	}
	return from, true
}

// Keep reads the secrets from the store and makes those of each new day, until
// ctx ends. Of several processes one makes them, and the others find them.
func (r *Ring) Keep(ctx context.Context, log *slog.Logger) {
	said := ""
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		err := r.look(ctx, log)
		r.once.Do(func() { close(r.loaded) })
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != said:
			said = err.Error()
			log.Error("shared ticket keys cannot be kept; what they lack is sealed with keys in memory", "error", err)
		case err == nil && said != "":
			said = ""
			log.Info("shared ticket keys can be kept again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look takes what is in the store. Where a key has to be made, or to be
// forgotten there, it does that.
func (r *Ring) look(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s, err := r.opts.secret()
	if err != nil {
		return err
	}
	keys, stale, err := r.read(ctx, s, log)
	if err != nil {
		return err
	}
	r.take(keys)
	if _, due := next(keys, time.Now()); !due && !stale {
		return nil
	}

	unlock, err := r.opts.Store.Lock(ctx, "tickets")
	if err != nil {
		return err
	}
	defer unlock()
	if keys, stale, err = r.read(ctx, s, log); err != nil { // whoever had the lock may have done it
		return err
	}
	from, due := next(keys, time.Now())
	switch {
	case due:
		k := key{From: from.UTC().Truncate(time.Second), Secret: make([]byte, 32)}
		rand.Read(k.Secret)
		keys = slices.Insert(keys, 0, k)
	case !stale:
		r.take(keys)
		return nil
	}
	sealed, err := s.seal(keys)
	if err != nil {
		return err
	}
	if err := r.opts.Store.Put(ctx, s.name, sealed); err != nil {
		return err
	}
	r.take(keys)
	if due {
		log.Info("ticket key made", "store", r.opts.Store.String(), "from", keys[0].From)
		r.sweep(ctx, s, log)
	}
	return nil
}

// take makes keys those in use, if they are others.
func (r *Ring) take(keys []key) {
	same := func(a, b key) bool { return a.From.Equal(b.From) && string(a.Secret) == string(b.Secret) }
	if old := r.keys.Load(); old == nil || !slices.EqualFunc(*old, keys, same) {
		r.keys.Store(&keys)
	}
}

// read returns the keys in the store that are not void, newest first, and
// whether others are there. What cannot be opened, though it has our name, is
// damaged and will be replaced.
func (r *Ring) read(ctx context.Context, s *secret, log *slog.Logger) (keys []key, stale bool, err error) {
	data, err := r.opts.Store.Get(ctx, s.name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	stored, err := s.open(data)
	if errors.Is(err, errDamaged) {
		log.Warn("shared ticket keys are damaged and made anew", "store", r.opts.Store.String(), "name", s.name, "error", err)
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %s: %w", r.opts.Store, s.name, err)
	}
	now := time.Now()
	for _, k := range stored {
		if !k.void(now) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return b.From.Compare(a.From) })
	return keys, len(keys) < len(stored), nil
}

// sweep removes what is sealed under other files and is out of date, and says
// when it is not: then some replica has another file.
func (r *Ring) sweep(ctx context.Context, s *secret, log *slog.Logger) {
	names, _ := r.opts.Store.List(ctx, prefix)
	for _, name := range names {
		if name == s.name {
			continue
		}
		data, err := r.opts.Store.Get(ctx, name)
		if err != nil {
			continue
		}
		if until, err := lifeOf(data); err == nil && time.Now().Before(until) {
			log.Warn("another gateway keeps its ticket keys in this store under another secret; tickets of the one are not good at the other until both have the same file",
				"store", r.opts.Store.String(), "file", r.opts.SecretFile, "until", until)
			continue
		}
		r.opts.Store.Delete(ctx, name) // else the next one will
	}
}
