package gateway

import (
	"cmp"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"strings"
	"sync/atomic"
)

// A TicketRing holds the secrets that session tickets are sealed with where
// they are to be good in other processes and after a restart. It is asked in
// handshakes and must not block.
type TicketRing interface {
	// Secrets returns secrets of 32 bytes, which no ticket is sealed with, but
	// with keys derived from them: seal for new tickets, nil where these are
	// sealed with a key in memory; open for older ones, and for those of other
	// processes. The generation is another one whenever the secrets are.
	Secrets() (generation uint64, seal []byte, open [][]byte)
}

// ticketKeys seal and open the tickets of one TLS configuration of a listener.
type ticketKeys struct {
	memory *tls.Config // keys of the listener's own that end with the process
	ring   TicketRing  // may be nil
	scope  string

	derived atomic.Pointer[derivedKeys]
}

type derivedKeys struct {
	generation uint64
	config     *tls.Config
	seals      bool
}

// ticketKeys returns those for a tls block. What its keys are derived from
// keeps a ticket from being opened elsewhere at all: on another listener, under
// another tls block or for other client authorities (CVE-2025-23419).
func (l *listener) ticketKeys(block *TLS) *ticketKeys {
	k := &ticketKeys{memory: l.tickets, ring: block.Tickets}
	identity := ""
	if block.ClientAuth != nil {
		identity = block.ClientAuth.Identity
	}
	var scope strings.Builder
	scope.WriteString("sallyport ticket key ")
	for _, part := range []string{l.cfg.Name, l.cfg.Protocol.Name, block.Name, identity, fmt.Sprint(cmp.Or(block.MinVersion, tls.VersionTLS12))} {
		fmt.Fprintf(&scope, "%d:%s", len(part), part)
	}
	k.scope = scope.String()
	return k
}

// seal makes a ticket.
func (k *ticketKeys) seal(cs tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
	if d := k.shared(cs.Version); d != nil && d.seals {
		return d.config.EncryptTicket(cs, state)
	}
	return k.memory.EncryptTicket(cs, state)
}

// open returns the session of a ticket, or nil for one that is not ours.
func (k *ticketKeys) open(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	if d := k.shared(cs.Version); d != nil {
		if state, err := d.config.DecryptTicket(ticket, cs); state != nil || err != nil {
			return state, err
		}
	}
	return k.memory.DecryptTicket(ticket, cs)
}

// shared returns the keys that other processes have too, or nil. In TLS 1.2 a
// ticket holds the master secret: who learns its key, even a week later, reads
// what was said. In TLS 1.3 a resumption makes a new key exchange (RFC 8446,
// 2.2), and crypto/tls knows no other, so only that is worth the risk.
func (k *ticketKeys) shared(version uint16) *derivedKeys {
	if k.ring == nil || version != tls.VersionTLS13 {
		return nil
	}
	generation, seal, open := k.ring.Secrets()
	if seal == nil && len(open) == 0 {
		return nil
	}
	if d := k.derived.Load(); d != nil && d.generation == generation {
		return d
	}
	// Handshakes that come first do the same small work, and need no lock.
	secrets := open
	if seal != nil {
		secrets = append([][]byte{seal}, open...) // the first seals
	}
	keys := make([][32]byte, len(secrets))
	for i, secret := range secrets {
		key, err := hkdf.Key(sha256.New, secret, nil, k.scope, len(keys[i]))
		if err != nil {
			return nil // no hash makes 32 bytes too many
		}
		copy(keys[i][:], key)
	}
	d := &derivedKeys{generation: generation, config: &tls.Config{}, seals: seal != nil}
	d.config.SetSessionTicketKeys(keys)
	k.derived.Store(d)
	return d
}
