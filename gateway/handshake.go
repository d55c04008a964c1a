package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// handshake ends the cleartext. Whatever it returns but nil ends the
// connection: there is no way back (RFC 7435 lets policy win, and the policy
// is that who asked for TLS gets TLS or nothing).
func (s *session) handshake(ctx context.Context, rule upgraders.ALPNRule) error {
	timeout := s.l.cfg.Policy.HandshakeTimeout
	begin := time.Now()
	s.sock.SetDeadline(begin.Add(timeout))
	// s.conn drains what is buffered first: nothing, or the ClientHello that
	// the guard let pass.
	config := s.l.configs.base[rule]
	if s.implicit {
		config = s.l.configs.first[rule]
	}
	conn := tls.Server(s.conn, s.ownTickets(config))
	// The deadline ends what waits for the client, the context what doesn't.
	ctx, cancel := context.WithTimeout(ctx, timeout+lastWords)
	defer cancel()
	err := conn.HandshakeContext(ctx)
	state := conn.ConnectionState()
	s.tls = &state
	if err == nil || !s.silent() { // else a health check
		s.gw.metrics.handshake(s.l.cfg.Name, &state, err, time.Since(begin))
	}
	if err != nil {
		if !s.silent() {
			s.linger() // for the alert to arrive
		}
		return explainHandshake(err)
	}
	s.sock.RequireCloseNotify()
	s.conn.Release()
	s.conn = wire.NewConn(conn)
	s.security = upgraders.Encrypted
	if len(state.VerifiedChains) > 0 {
		s.security = upgraders.Authenticated
	}
	return nil
}

// explainHandshake adds what an operator can do about a failed handshake.
func explainHandshake(err error) error {
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("TLS handshake: the client did not finish in time: %w", err)
	case errors.As(err, &header):
		return fmt.Errorf("TLS handshake: the client does not speak TLS here (%s); is it set to STARTTLS on an implicit-TLS port, or was something injected?", header.Msg)
	}
	return fmt.Errorf("TLS handshake: %w", err)
}

// configs are a listener's TLS configurations, made once: one to begin with
// for each ALPN rule, which looks at the hello and then picks the one that
// goes on.
type configs struct {
	base  [3]*tls.Config // by upgraders.ALPNRule
	first [3]*tls.Config // the same for connections that begin with TLS, which may be challenges
}

// newConfigs makes the configurations of a listener and its routes.
func newConfigs(l *listener) configs {
	finals := map[*TLS]*tls.Config{}
	for _, r := range append([]*route{nil}, l.routes...) {
		if block := l.tlsOf(r); finals[block] == nil {
			finals[block] = l.tlsConfig(block)
		}
	}
	var c configs
	for rule := range c.base {
		base := l.tlsConfig(l.cfg.TLS)
		base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if why := l.alpnMismatch(upgraders.ALPNRule(rule), hello.SupportedProtos); why != "" {
				return nil, sendAlert(hello, alertNoApplicationProtocol, why)
			}
			if hello.ServerName != "" && !validServerName(hello.ServerName) {
				return nil, sendAlert(hello, alertUnrecognizedName, "the client's SNI is not a host name")
			}
			if l.cfg.StrictSNI && hello.ServerName != "" {
				if _, covered, err := l.cfg.Certificates.Certificate(hello); err == nil && !covered {
					return nil, sendAlert(hello, alertUnrecognizedName, "no certificate covers the client's SNI, and strict_sni is set")
				}
			}
			return finals[l.tlsOf(l.routeFor(hello.ServerName))], nil
		}
		c.base[rule] = base
		c.first[rule] = l.challenged(base)
	}
	return c
}

// acmeTLS is the ALPN id of an authority that wants to see whether a name leads
// here (RFC 8737, 3). It offers that one alone; beside others it is no
// challenge, but an id that the listener does not know.
const acmeTLS = "acme-tls/1"

// challenged returns a configuration that answers challenges, where the
// listener has answers, and is as it was for everyone else. They are answered
// only in connections that begin with TLS: nothing of RFC 8737 is about words
// before it.
func (l *listener) challenged(base *tls.Config) *tls.Config {
	if l.cfg.Challenges == nil {
		return base
	}
	c := base.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Equal(hello.SupportedProtos, []string{acmeTLS}) {
			return base.GetConfigForClient(hello)
		}
		if !validServerName(hello.ServerName) {
			return nil, sendAlert(hello, alertUnrecognizedName, "the challenge is for no host name")
		}
		cert, err := l.cfg.Challenges.ChallengeCertificate(hello)
		if err != nil {
			return nil, sendAlert(hello, alertUnrecognizedName, "challenge: "+err.Error())
		}
		return &tls.Config{
			MinVersion:             tls.VersionTLS12, // RFC 8737, 4
			CipherSuites:           forwardSecret(),
			NextProtos:             []string{acmeTLS},
			Certificates:           []tls.Certificate{*cert},
			SessionTicketsDisabled: true,
		}, nil
	}
	return c
}

// challenge reports whether the session is an authority's look at a
// certificate, in which nothing is ever said (RFC 8737, 4).
func (s *session) challenge() bool { return s.tls != nil && s.tls.NegotiatedProtocol == acmeTLS }

// alpnMismatch says what is wrong with the ids that a client offers, if
// anything is. An id of another protocol's is a client that was led here
// (ALPACA, 2021; RFC 7301, 3.2). What it offers is not repeated.
func (l *listener) alpnMismatch(rule upgraders.ALPNRule, offered []string) string {
	switch {
	case len(offered) == 0 && rule == upgraders.ALPNRequired:
		return "the client offers no ALPN where it is mandatory"
	case len(offered) == 0:
		return ""
	case rule == upgraders.ALPNForbidden:
		return "the client offers ALPN where there must be none"
	case !slices.ContainsFunc(offered, func(id string) bool { return slices.Contains(l.cfg.Protocol.ALPN, id) }):
		return "the client offers ALPN of other protocols only"
	}
	return ""
}

// tlsConfig makes one configuration. Everything that is not set is the safe
// default of crypto/tls: X25519MLKEM768 first, no renegotiation, no 0-RTT.
func (l *listener) tlsConfig(block *TLS) *tls.Config {
	if block == nil {
		block = &TLS{}
	}
	c := &tls.Config{
		MinVersion:   cmp.Or(block.MinVersion, tls.VersionTLS12), // an opportunistic listener may spell out less (RFC 7435, 3)
		CipherSuites: forwardSecret(),
		NextProtos:   l.cfg.Protocol.ALPN,
		// Small records at first would cost a large transfer more than they
		// gain it: the relay sends all records of a write in one call.
		DynamicRecordSizingDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, _, err := l.cfg.Certificates.Certificate(hello)
			return cert, err
		},
	}
	identity := ""
	if auth := block.ClientAuth; auth != nil {
		c.ClientCAs = auth.CAs
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if auth.Require {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
		identity = auth.Identity
	}

	keys := l.ticketKeys(block)
	// A ticket is good on the listener, for the name and under the policy it
	// was issued for, and nowhere else (CVE-2025-23419, CVE-2025-68121).
	binding := func(cs tls.ConnectionState) []byte {
		h := sha256.New()
		for _, part := range []string{l.cfg.Name, l.cfg.Protocol.Name, strings.ToLower(cs.ServerName), identity, fmt.Sprint(c.MinVersion)} {
			fmt.Fprintf(h, "%d:%s", len(part), part)
		}
		return append([]byte("sallyport ticket "), h.Sum(nil)...)
	}
	c.WrapSession = func(cs tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
		state.Extra = append(state.Extra, binding(cs))
		return keys.seal(cs, state)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		state, err := keys.open(identity, cs)
		if err != nil || state == nil {
			return nil, err
		}
		want := string(binding(cs))
		for _, extra := range state.Extra {
			if string(extra) == want {
				return state, nil
			}
		}
		return nil, nil // a full handshake
	}
	return c
}

// forwardSecret lists the TLS 1.2 suites of crypto/tls's secure list that have
// forward secrecy; TLS 1.3 has no others.
func forwardSecret() []uint16 {
	var ids []uint16
	for _, suite := range tls.CipherSuites() {
		if strings.HasPrefix(suite.Name, "TLS_ECDHE_") {
			ids = append(ids, suite.ID)
		}
	}
	return ids
}

// validServerName reports whether an SNI value is a host name as RFC 6066, 3
// has it: no address, no trailing dot, LDH labels (and the underscore that is
// seen in the wild). crypto/tls lets more pass.
func validServerName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			switch b := label[i]; {
			case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '_':
			default:
				return false
			}
		}
	}
	_, err := netip.ParseAddr(name)
	return err != nil
}

// Alerts that crypto/tls cannot be asked for (RFC 8446, 6).
const (
	alertUnrecognizedName      = 112
	alertNoApplicationProtocol = 120
)

// sendAlert writes a fatal alert in place of the internal_error that
// crypto/tls would send for an error of GetConfigForClient, and returns the
// error. No key is negotiated yet, so the record is in the clear, as every
// alert at this point is.
func sendAlert(hello *tls.ClientHelloInfo, alert byte, why string) error {
	hello.Conn.Write([]byte{21, 3, 3, 0, 2, 2, alert})
	hello.Conn.(*wire.Conn).CloseWrite()
	return errors.New(why)
}
