package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certs/store"
)

const (
	storePoll  = 5 * time.Second // for what other replicas obtained
	tryTimeout = 5 * time.Minute // of an order, from account to certificate, without its DNS

	firstBackoff = time.Minute
	maxBackoff   = time.Hour

	// Each certificate that we can't serve counts against a limit of the
	// authority (Let's Encrypt: 5 a week), and whatever is wrong, a clock as a
	// rule, doesn't mend itself.
	firstUnusableBackoff = time.Hour
	maxUnusableBackoff   = 24 * time.Hour
)

// schedule returns when a certificate is renewed: when a third of its life is
// left, or a little more, so that not all certificates of one day come due at
// once. It is the same for all replicas and after a restart.
func schedule(leaf *x509.Certificate) time.Time {
	third := leaf.NotAfter.Sub(leaf.NotBefore) / 3
	sum := sha256.Sum256(leaf.Raw)
	jitter := time.Duration(float64(third) / 10 * float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32))
	return leaf.NotAfter.Add(-third - jitter)
}

// due returns when the certificate has to be obtained or renewed.
func (s *Source) due() time.Time {
	cert := s.ours()
	if cert == nil {
		return time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.asked(cert.Leaf)
	// One that was due when it came, because the clock is ahead or it had lived
	// before, would be ordered again and again, until the authority has enough.
	if last := s.past.Last; s.past.Failed == 0 && !last.Before(schedule(cert.Leaf)) {
		if again := last.Add(max(cert.Leaf.NotAfter.Sub(last)/2, firstBackoff)); at.Before(again) {
			at = again
		}
	}
	return at
}

// asked returns when a certificate is to be renewed by schedule, or by the
// authority's wish. Its caller holds mu.
func (s *Source) asked(leaf *x509.Certificate) time.Time {
	if s.advice.IsZero() {
		return schedule(leaf)
	}
	at := s.advice
	// An authority that has everything renewed at once would never see the end
	// of it.
	if again := s.past.Last.Add(leastAdvice); s.past.Advised && at.Before(again) {
		at = again
	}
	// Nor does it have us wait until it is too late.
	if last := leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 6); at.After(last) {
		at = last
	}
	return at
}

// leastAdvice is what lies between two renewals that the authority alone wanted.
const leastAdvice = time.Hour

// backoffAfter returns how long to wait after some failures in a row.
func backoffAfter(failed int, err error) time.Duration {
	first, most := firstBackoff, maxBackoff
	if errors.Is(err, ErrUnusable) {
		first, most = firstUnusableBackoff, maxUnusableBackoff
	}
	wait := min(first<<min(failed-1, 10), most)
	wait += rand.N(wait / 4)
	if p := (*problem)(nil); errors.As(err, &p) {
		wait = max(wait, p.after)
	}
	return wait
}

// Keep has the certificate issued and renewed until ctx ends. It serves what
// the store holds at once, and what other replicas put there when they do.
func (s *Source) Keep(ctx context.Context, log *slog.Logger) {
	s.mu.Lock()
	s.log = log
	s.mu.Unlock()
	if cert := s.current.Load(); cert != nil {
		log.Info("certificate taken from the store", about(cert)...)
	}
	var said string // of the store
	following := func() {}
	defer func() { following() }()
	var followed *tls.Certificate
	for {
		if err := s.Load(ctx); err == nil {
			said = ""
		} else if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			log.Error("the store cannot be read", "error", err)
		}
		if s.wanted() || s.pending() {
			s.try(ctx, false)
		}
		s.renewStandIn()
		if cert := s.ours(); cert != followed {
			following()
			followed, following = cert, s.follow(ctx, log, cert)
			s.announce(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-time.After(s.authority.poll):
		}
	}
}

// wanted reports whether it is time to order the certificate.
func (s *Source) wanted() bool {
	now, due := s.authority.now(), s.due()
	s.mu.Lock()
	defer s.mu.Unlock()
	return !now.Before(due) && !now.Before(s.past.Next)
}

// pending reports whether a certificate has yet to be stored.
func (s *Source) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsaved != nil
}

// ours returns the certificate if it is what was ordered.
func (s *Source) ours() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopgap {
		return nil
	}
	return s.current.Load()
}

// follow has the authority asked when to renew a certificate.
func (s *Source) follow(ctx context.Context, log *slog.Logger, cert *tls.Certificate) (stop func()) {
	f, ok := s.authority.engine.(follower)
	if !ok || cert == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.follow(ctx, log, cert.Leaf, func(at time.Time) { s.advise(cert, at) })
	}()
	return func() { cancel(); <-done }
}

func (s *Source) advise(cert *tls.Certificate, at time.Time) {
	if s.current.Load() != cert {
		return
	}
	s.mu.Lock()
	s.advice = at
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Renew has the certificate renewed now, whatever the schedule. It keeps the
// key, unless the order wants a new one each time. When another replica is
// about it, it takes what that obtains.
func (s *Source) Renew(ctx context.Context) error { return s.try(ctx, true) }

// try obtains the certificate, unless it turns out that somebody else has. Only
// one process tries at a time. What comes of it is logged here, once.
func (s *Source) try(ctx context.Context, force bool) error {
	before := s.ours()
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	endOrder, err := s.authority.begin(ctx)
	if err != nil {
		return err
	}
	defer endOrder()
	unlock, err := s.lead(ctx)
	if err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrStore, err)
			s.failed(ctx, err)
		}
		return err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return err // nobody waits for it any more
	}
	s.save(ctx)
	s.look(ctx) // what cannot be read is ordered anew
	if now := s.ours(); force && now != before {
		return nil
	}
	s.remember(s.history(ctx))
	if !force && !s.wanted() {
		return nil
	}
	s.mu.Lock()
	past := s.past
	s.mu.Unlock()
	began := s.authority.now()
	cert, challenge, err := s.obtain(ctx, past.Challenge)
	if err != nil {
		if ctx.Err() == nil {
			s.failed(ctx, err)
		}
		return err
	}
	s.take(cert, false)
	h := history{Last: began, Result: result(nil), Challenge: challenge}
	h.Advised = before != nil && !force && began.Before(schedule(before.Leaf))
	s.mu.Lock()
	s.past, s.err = h, nil
	s.tries[h.Result]++
	s.unsaved, _ = encode(cert)
	s.mu.Unlock()
	s.logger().Info("certificate obtained", append(about(cert), "challenge", challenge, "duration", s.authority.now().Sub(began).Seconds())...)
	// It is kept even though we are being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	s.save(ctx)
	s.putHistory(ctx, h)
	s.tidy(ctx)
	return nil
}

// lead waits until this process is the one that may order the certificate, and
// says so when that takes longer than an order.
func (s *Source) lead(ctx context.Context) (unlock func(), err error) {
	for said := false; ; said = true {
		short, cancel := context.WithTimeout(ctx, s.authority.patience()+time.Minute)
		unlock, err = s.authority.cfg.Store.Lock(short, s.slot.certificate())
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return unlock, err
		}
		if !said {
			s.logger().Warn("another process holds the certificate's lock, and nobody renews it meanwhile; end that process if it hangs", "error", err)
		}
	}
}

// failed notes why a try failed, and when the next one is due.
func (s *Source) failed(ctx context.Context, err error) {
	now := s.authority.now()
	s.mu.Lock()
	h := history{Failed: s.past.Failed + 1, Last: now, Result: result(err), Error: err.Error(), Challenge: s.past.Challenge}
	if e := (*spent)(nil); errors.As(err, &e) {
		h.Next = e.until
	} else {
		h.Next = now.Add(backoffAfter(h.Failed, err))
	}
	s.past, s.err = h, err
	s.tries[h.Result]++
	log := s.log
	s.mu.Unlock()

	level, attrs := slog.LevelError, []any{"error", err, "next", h.Next.UTC()}
	if cert := s.current.Load(); cert != nil {
		attrs = append(attrs, "served_until", cert.Leaf.NotAfter.UTC())
		if left := cert.Leaf.NotAfter.Sub(now); left > cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)/6 {
			level = slog.LevelWarn
		}
	}
	log.Log(ctx, level, "certificate not obtained", attrs...)
	s.putHistory(ctx, h) // without it, others and a restart try sooner
}

// save puts into the store what it did not take before. The certificate is
// served meanwhile, and not ordered again.
func (s *Source) save(ctx context.Context) {
	s.mu.Lock()
	data := s.unsaved
	s.mu.Unlock()
	if data == nil {
		return
	}
	err := s.authority.cfg.Store.Put(ctx, s.slot.certificate(), data)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.seen, s.unsaved = data, nil
		if errors.Is(s.err, ErrStore) {
			s.err = nil
		}
	case !errors.Is(s.err, ErrStore):
		s.err = fmt.Errorf("%w: %w", ErrStore, err)
		s.log.Error("certificate cannot be stored", "error", err)
	}
}

// tidy removes what nobody will come for any more.
func (s *Source) tidy(ctx context.Context) {
	st, now := s.authority.cfg.Store, s.authority.now()
	s.authority.challenges.sweep(ctx)
	keys, _ := st.List(ctx, s.slot.siblings())
	for _, key := range keys {
		data, err := st.Get(ctx, key)
		if err != nil || key == s.slot.certificate() {
			continue
		}
		if cert, err := decode(data); err != nil || now.After(cert.Leaf.NotAfter) {
			st.Delete(ctx, key)
		}
	}
}

var errTryTimeout = errors.New("it is not done in time: try another time, or another authority")

// patience returns how long an order may take.
func (a *Authority) patience() time.Duration {
	if a.cfg.DNS == nil {
		return tryTimeout
	}
	return tryTimeout + 2*a.cfg.DNS.Patience() // to publish, and until all have it
}

// obtain has the certificate issued, by one kind of challenge after the other.
func (s *Source) obtain(ctx context.Context, preferred string) (cert *tls.Certificate, challenge string, err error) {
	a := s.authority
	if !a.cfg.AcceptTOS {
		return nil, "", fmt.Errorf("%w without your consent to its terms of service: read them, and write accept_tos = true", ErrRefused)
	}
	kinds, err := s.kinds(preferred)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.patience(), errTryTimeout)
	defer cancel()
	inStore := func(err error) (*tls.Certificate, string, error) {
		return nil, "", fmt.Errorf("%w, so nothing was ordered: %w", ErrStore, err)
	}
	if err := s.room(ctx); err != nil {
		return inStore(err)
	}
	account, err := a.accountKey(ctx)
	if err != nil {
		return inStore(err)
	}
	key, err := s.key(ctx)
	if err != nil {
		return inStore(err)
	}
	o := order{names: s.order.Names, key: key, account: account, log: s.logger()}
	if old := s.ours(); old != nil {
		o.replaces = old.Leaf
	}
	var before error
	for _, o.challenge = range kinds {
		takeBack, err := a.reserve(ctx, o.names)
		switch e := (*spent)(nil); {
		case errors.As(err, &e) && before != nil:
			return nil, "", before
		case e != nil:
			return nil, "", err
		case err != nil:
			return inStore(err)
		}
		chain, err := a.engine.obtain(ctx, o)
		if !errors.Is(err, ErrValidation) {
			takeBack()
		}
		if err == nil {
			cert, err := s.issued(chain, key)
			return cert, o.challenge, err
		}
		if before != nil {
			err = fmt.Errorf("%w; %s: %w", before, o.challenge, err)
		} else if len(kinds) > 1 {
			err = fmt.Errorf("%s: %w", o.challenge, err)
		}
		if !errors.Is(err, ErrValidation) && !errors.Is(err, errNotOffered) && !errors.Is(err, ErrDNS) {
			return nil, "", err
		}
		before = err
	}
	return nil, "", before
}

// errNotOffered says that an authority would verify a name otherwise.
var errNotOffered = fmt.Errorf("%w: it verifies in other ways", ErrRefused)

// kinds returns the kinds of challenges to try, the one that worked last first.
func (s *Source) kinds(preferred string) (kinds []string, err error) {
	cfg := s.authority.cfg
	wildcard := slices.ContainsFunc(s.order.Names, func(n string) bool { return strings.HasPrefix(n, "*.") })
	address := slices.ContainsFunc(s.order.Names, func(n string) bool { return net.ParseIP(n) != nil })
	for _, kind := range cfg.Challenges {
		switch {
		case kind == DNS01 && (cfg.DNS == nil || address && !wildcard): // RFC 8738, 7
		case kind != DNS01 && wildcard: // RFC 8555, 7.1.3; CA/Browser Forum
		case kind == preferred:
			kinds = slices.Insert(kinds, 0, kind)
		default:
			kinds = append(kinds, kind)
		}
	}
	if kinds == nil {
		return nil, fmt.Errorf("%w: none of challenges = %q can prove %s: add dns-01, with manager = \"advanced\" and a dns block", ErrRefused, cfg.Challenges, strings.Join(s.order.Names, ", "))
	}
	return kinds, nil
}

// room makes sure that the store will take a certificate. One that is ordered
// and cannot be stored is ordered again at each restart.
func (s *Source) room(ctx context.Context) error {
	const most = 16 << 10 // of a key and its chain
	st, key := s.authority.cfg.Store, "room/"+s.slot.label+"/"+s.slot.spec
	if err := st.Put(ctx, key, bytes.Repeat([]byte("\n"), most)); err != nil {
		return err
	}
	return st.Delete(ctx, key)
}

// key returns the key for the next certificate. It is in the store before
// anything is ordered, so that a crash cannot lose it.
func (s *Source) key(ctx context.Context) (crypto.Signer, error) {
	st, name := s.authority.cfg.Store, s.slot.key(s.order.KeyType)
	var mine crypto.Signer
	cert := s.current.Load()
	if cert != nil && kindOf(cert.Leaf.PublicKey) == s.order.KeyType {
		mine = cert.PrivateKey.(crypto.Signer)
	}
	data, err := st.Get(ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		key, err := decodeKey(data)
		switch {
		case err != nil || kindOf(key.Public()) != s.order.KeyType:
			s.logger().Warn("the key for the next certificate cannot be read, it is replaced", "store", st.String(), "key", name)
		case mine == nil || s.order.Rollover != same(key, mine):
			return key, nil
		}
	}
	key := mine
	if s.order.Rollover || mine == nil {
		if key, err = newKey(s.order.KeyType); err != nil {
			return nil, err
		}
	}
	return key, putKey(ctx, st, name, key)
}

// same reports whether two keys are one.
func same(a, b crypto.Signer) bool {
	public, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b.Public())
}
