package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certs/store"
)

// What an authority's replicas keep in their store:
//
//	accounts/DIRECTORY/key         the account's key
//	certificates/LABEL/SPEC        a certificate with its key, and its lock
//	keys/LABEL/KIND                the key for the next order of a certificate
//	tries/LABEL/SPEC               what came of the last tries
//	validations/DIRECTORY/NAME     failed validations of the last hour
//	challenges/KIND/…              answers that the authority will come for
//
// SPEC stands for all that makes one certificate differ from another, so that
// replicas of two configurations, in the middle of a change, don't replace each
// other's certificates in turn.

// digest returns a short name for some values.
func digest(values ...string) string {
	text, _ := json.Marshal(values)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// element makes an element of a key of a text: readable, and never the same for
// two texts.
func element(text string) string {
	const most = 100
	safe := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, strings.TrimLeft(text, "."))
	if safe == text && safe != "" && len(safe) <= most {
		return safe
	}
	return safe[:min(len(safe), most)] + "_" + digest(text)
}

// account returns the element that stands for an account.
func (c Config) account() string {
	host := "directory"
	if u, err := url.Parse(c.Directory); err == nil {
		host = u.Hostname()
	}
	values := []string{c.Directory}
	if c.ExternalAccount != nil {
		values = append(values, c.ExternalAccount.KeyID)
	}
	return element(host) + "_" + digest(values...)
}

// A slot is where a certificate is in the store.
type slot struct{ label, spec string }

func slotOf(cfg Config, o Order) slot {
	names := slices.Clone(o.Names)
	slices.Sort(names)
	return slot{element(o.Label), digest(append([]string{cfg.Directory, cfg.Profile, o.KeyType}, names...)...)}
}

func (s slot) certificate() string    { return "certificates/" + s.label + "/" + s.spec }
func (s slot) siblings() string       { return "certificates/" + s.label + "/" }
func (s slot) tries() string          { return "tries/" + s.label + "/" + s.spec }
func (s slot) key(kind string) string { return "keys/" + s.label + "/" + kind }

// newKey makes a key of a kind.
func newKey(kind string) (crypto.Signer, error) {
	curve := elliptic.P256()
	if kind == P384 {
		curve = elliptic.P384()
	}
	return ecdsa.GenerateKey(curve, rand.Reader)
}

// kindOf returns the kind of a key, "" for one that we would not make.
func kindOf(key crypto.PublicKey) string {
	if key, ok := key.(*ecdsa.PublicKey); ok {
		switch key.Curve {
		case elliptic.P256():
			return P256
		case elliptic.P384():
			return P384
		}
	}
	return ""
}

// accountKey returns the key of the account, made when there is none.
func (a *Authority) accountKey(ctx context.Context) (crypto.Signer, error) {
	st, account := a.cfg.Store, a.cfg.account()
	key := "accounts/" + account + "/key"
	unlock, err := st.Lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	data, err := st.Get(ctx, key)
	switch {
	case err == nil:
		signer, err := decodeKey(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %s, the key of the account: %w: delete it, and an account will be made anew", st, key, err)
		}
		return signer, nil
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	signer, err := newKey(P256)
	if err != nil {
		return nil, err
	}
	return signer, putKey(ctx, st, key, signer)
}

func putKey(ctx context.Context, st store.Store, key string, signer crypto.Signer) error {
	data, err := encodeKey(signer)
	if err != nil {
		return err
	}
	return st.Put(ctx, key, data)
}

// A history is what came of the last tries to obtain a certificate.
type history struct {
	Failed    int       `json:"failed"` // in a row
	Last      time.Time `json:"last"`
	Next      time.Time `json:"next"` // not before
	Result    string    `json:"result"`
	Error     string    `json:"error,omitempty"`
	Challenge string    `json:"challenge,omitempty"` // the kind that worked last
	Advised   bool      `json:"advised,omitempty"`   // the last order was the authority's wish (RFC 9773)
}

// history returns what the store knows. What cannot be read is none: the next
// try will say why. So is what was written while the clock was wrong: it could
// keep us waiting for years.
func (s *Source) history(ctx context.Context) (h history) {
	data, err := s.authority.cfg.Store.Get(ctx, s.slot.tries())
	if err != nil || json.Unmarshal(data, &h) != nil || h.ahead(s.authority.now()) {
		return history{}
	}
	return h
}

// ahead reports whether a history was written by a clock that is ahead of ours.
func (h *history) ahead(now time.Time) bool { return h.Last.After(now.Add(clockSkew)) }

func (s *Source) putHistory(ctx context.Context, h history) error {
	return putJSON(ctx, s.authority.cfg.Store, s.slot.tries(), h)
}

// Authorities count failed validations of a name (Let's Encrypt: 5 an hour), and
// turn away an account that fails more.
const (
	maxFailures   = 5
	failureWindow = time.Hour
)

// A spent error says that a name has failed as often as it may.
type spent struct {
	name  string
	until time.Time
}

func (e *spent) Error() string {
	return fmt.Sprintf("%s: %d validations of %s failed within an hour, and more would lock the account out: mend what is wrong with it until then",
		ErrLimited, maxFailures, e.name)
}

func (e *spent) Unwrap() error { return ErrLimited }

// storeTimeout bounds what is read, and what has to be written even though an
// order was cut off.
const storeTimeout = 10 * time.Second

// reserve counts a validation of each name as failed, in advance: should we die
// in the middle, it may have. takeBack is for those that did not fail.
func (a *Authority) reserve(ctx context.Context, names []string) (takeBack func(), err error) {
	st, now := a.cfg.Store, a.now()
	prefix := "validations/" + a.cfg.account() + "/"
	unlock, err := st.Lock(ctx, strings.TrimSuffix(prefix, "/"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	counted := make(map[string][]time.Time)
	for _, name := range names {
		key := prefix + element(name)
		var times []time.Time
		data, err := st.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			json.Unmarshal(data, &times) // garbage counts nothing
		}
		times = slices.DeleteFunc(times, func(t time.Time) bool {
			return now.Sub(t) >= failureWindow || t.After(now.Add(clockSkew)) // the clock was wrong
		})
		if len(times) >= maxFailures {
			return nil, &spent{name, times[len(times)-maxFailures].Add(failureWindow)}
		}
		counted[key] = append(times, now)
	}
	for key, times := range counted {
		if err := putJSON(ctx, st, key, times); err != nil {
			return nil, err
		}
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		unlock, err := st.Lock(ctx, strings.TrimSuffix(prefix, "/"))
		if err != nil {
			return // counted too many
		}
		defer unlock()
		for key := range counted {
			var times []time.Time
			if data, err := st.Get(ctx, key); err != nil || json.Unmarshal(data, &times) != nil {
				continue
			}
			if i := slices.IndexFunc(times, now.Equal); i >= 0 {
				times = slices.Delete(times, i, i+1)
			}
			if len(times) == 0 {
				st.Delete(ctx, key)
			} else {
				putJSON(ctx, st, key, times)
			}
		}
	}, nil
}

func putJSON(ctx context.Context, st store.Store, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return st.Put(ctx, key, data)
}
