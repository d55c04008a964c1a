package acme

import (
	"context"
	"crypto"
	"crypto/x509"
)

// A certificate whose key is another one each time has the next one in the
// store long before it is used: a TLSA record can only be followed by another
// key after the record of that has been published for some time (RFC 7671,
// 8.1).

// announce makes the key of the next certificate, where there is none yet.
func (s *Source) announce(ctx context.Context) {
	if !s.order.Rollover || s.ours() == nil {
		return
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return
	}
	defer release()
	unlock, err := s.authority.cfg.Store.Lock(ctx, s.slot.certificate())
	if err != nil {
		return // an order would make it
	}
	defer unlock()
	s.look(ctx) // a replica's certificate may have that key by now
	if _, err := s.key(ctx); err == nil {
		s.peek(ctx)
	}
}

// peek takes the next key from the store.
func (s *Source) peek(ctx context.Context) {
	if !s.order.Rollover {
		return
	}
	var upcoming crypto.PublicKey
	if data, err := s.authority.cfg.Store.Get(ctx, s.slot.key(s.order.KeyType)); err == nil {
		if key, err := decodeKey(data); err == nil && kindOf(key.Public()) == s.order.KeyType {
			upcoming = key.Public()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upcoming = upcoming
}

// nextKey returns the key of the next certificate, in the form in which TLSA
// records pin it, or nil where it is that of this one, or unknown.
func (s *Source) nextKey() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upcoming == nil {
		return nil
	}
	if cert := s.current.Load(); cert != nil && !s.stopgap {
		if mine, ok := cert.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && mine.Equal(s.upcoming) {
			return nil
		}
	}
	der, err := x509.MarshalPKIXPublicKey(s.upcoming)
	if err != nil {
		return nil
	}
	return der
}
