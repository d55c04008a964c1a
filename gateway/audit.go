package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

const (
	auditTimeout = 30 * time.Second // of one server, in all
	auditLeg     = 10 * time.Second // of one connection to it
	auditQuick   = 3 * time.Second  // to tell whether a server waits for a PROXY header
	auditsAtOnce = 32
)

// auditClient is who an audit pretends to be: a client that no server knows
// since that network is kept for examples.
var auditClient = netip.MustParseAddrPort("192.0.2.1:49152")

// An Audit is what one server of a backend was found to do.
type Audit struct {
	Backend  string
	Protocol string
	Server   string
	Findings []upgraders.Finding
}

// AuditBackends asks each server of each backend that a listener uses, reached
// exactly as a session of a client from 192.0.2.1 in TLS would be, whether it
// gives that client what no stranger should have, or keeps from it what it
// needs. It starts nothing and delivers nothing. progress, which may be nil,
// is told of each server when it was asked; the result is in the order of the
// configuration.
func AuditBackends(ctx context.Context, cfg *Config, progress func(*Audit)) ([]*Audit, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(*Audit) {}
	}
	var (
		questions = questionsOf(ctx, cfg)
		audits    = make([]*Audit, len(questions))
		turns     = make(chan struct{}, auditsAtOnce)
		asking    sync.WaitGroup
		telling   sync.Mutex
	)
	for i, q := range questions {
		turns <- struct{}{}
		asking.Go(func() {
			defer func() { <-turns }()
			a := &Audit{Backend: q.cfg.Name, Protocol: q.protocol.Name, Server: q.server.Address}
			a.Findings = q.audit(ctx)
			audits[i] = a
			telling.Lock()
			defer telling.Unlock()
			progress(a)
		})
	}
	asking.Wait()
	return audits, ctx.Err()
}

// A questioning is one server that an audit asks.
type questioning struct {
	*backend
	server *server
	local  netip.AddrPort // where the client connected to
	ports  []uint16
	said   []string // what the protocol would have logged
}

// questionsOf lists the servers to ask, each once for a protocol.
func questionsOf(ctx context.Context, cfg *Config) (list []*questioning) {
	g := New(Options{})
	defer g.cancel()
	resolver := newResolver(cfg.Resolver)
	known := map[backendKey][]*questioning{}
	for _, l := range cfg.Listeners {
		local, ports := listenersAddress(l)
		for _, r := range l.Routes {
			key := backendKey{r.Backend.Name, l.Protocol.Name}
			if known[key] == nil {
				b := newBackend(r.Backend, l.Protocol, l.probesFor(r), g, resolver)
				for _, sv := range r.Backend.Servers {
					for _, sv := range b.expand(ctx, sv, map[string]bool{}) {
						known[key] = append(known[key], &questioning{backend: b, server: sv, local: local})
					}
				}
				list = append(list, known[key]...)
			}
			for _, q := range known[key] {
				q.ports = append(q.ports, ports...)
			}
		}
	}
	return list
}

// listenersAddress returns what a client of a listener has connected to, or an
// address for examples where a listener is bound to all, and its ports.
func listenersAddress(l *Listener) (local netip.AddrPort, ports []uint16) {
	for _, address := range l.Addresses {
		host, port, _ := net.SplitHostPort(address)
		n, _ := strconv.ParseUint(port, 10, 16)
		ports = append(ports, uint16(n))
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is4() || ip.IsUnspecified() {
			ip = netip.AddrFrom4([4]byte{192, 0, 2, 2})
		}
		if !local.IsValid() {
			local = netip.AddrPortFrom(ip, uint16(n))
		}
	}
	return local, slices.Compact(slices.Sorted(slices.Values(ports)))
}

// audit asks the server everything.
func (q *questioning) audit(ctx context.Context) []upgraders.Finding {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	var findings []upgraders.Finding
	err := q.begin(ctx, q.cfg.Send, q.cfg.Forward, auditLeg, func(ctx context.Context, link *upgraders.Link) (err error) {
		switch {
		case q.protocol.Audit != nil:
			told := upgraders.Told{Proxied: q.proxied(), TLS: q.cfg.Send == SendProxyV2, Ports: q.ports}
			findings, err = q.protocol.Audit(ctx, link, told)
		case q.protocol.Probe != nil:
			_, err = q.protocol.Probe(ctx, link)
		}
		return err
	})
	if err != nil {
		return append(findings, q.explain(ctx, err)...)
	}
	return append(findings, q.hidden(ctx)...)
}

// hidden asks whether the server keeps something back from a session that it
// takes for cleartext, as every one is that it is not told of, or does not
// believe to be otherwise.
func (q *questioning) hidden(ctx context.Context) []upgraders.Finding {
	if q.protocol.Probe == nil || q.cfg.TLS != nil {
		return nil
	}
	ways := []struct {
		probe func() (upgraders.Capabilities, error)
		mend  string
	}{{
		func() (upgraders.Capabilities, error) { return q.probeInTLS(ctx) },
		"write tls { mode = \"starttls\" } in the backend, or have it offer the same without TLS (Postfix: smtpd_tls_auth_only = no; Dovecot: disable_plaintext_auth = no, in 2.4 auth_allow_cleartext = yes; Exim: auth_advertise_hosts; Cyrus: allowplaintext: yes)",
	}}
	if q.cfg.Send == SendProxyV1 { // which has no words for TLS
		ways = slices.Insert(ways, 0, ways[0])
		ways[0].probe = func() (upgraders.Capabilities, error) {
			return q.probe(ctx, SendProxyV2, upgraders.Forward{}, auditLeg)
		}
		ways[0].mend = "write send = \"proxy-v2\", which tells it of the client's TLS"
	}
	for _, way := range ways {
		inTLS, err := way.probe()
		if err != nil {
			continue
		}
		offered, err := q.probe(ctx, q.cfg.Send, q.cfg.Forward, auditLeg)
		if err != nil {
			return nil
		}
		if missing := words(inTLS, words(offered, nil)); len(missing) > 0 {
			return []upgraders.Finding{{
				Severity: upgraders.Doubtful,
				What:     fmt.Sprintf("takes sessions in TLS for cleartext, and hides from them: %.200q", strings.Join(missing, " ")),
				Mend:     way.mend,
			}}
		}
	}
	return nil
}

// words takes capabilities apart, and leaves out those in known and those that
// no session through the gateway may use.
func words(offered upgraders.Capabilities, known []string) (list []string) {
	for _, line := range offered {
		for _, word := range strings.Fields(strings.ToUpper(line)) {
			mechanism := strings.TrimPrefix(word, "AUTH=")
			if mechanism != "EXTERNAL" && !strings.HasSuffix(word, "-PLUS") && !slices.Contains(known, word) {
				list = append(list, word)
			}
		}
	}
	return list
}

// probeInTLS asks what the server offers once it was asked for TLS. Whose
// certificate it has is not looked at: nothing is said that anybody must not
// hear.
func (q *questioning) probeInTLS(ctx context.Context) (offered upgraders.Capabilities, err error) {
	if q.protocol.Request == nil {
		return nil, upgraders.ErrNotOffered
	}
	cfg := *q.cfg
	cfg.TLS = &BackendTLS{Mode: StartTLS, Insecure: true}
	again := *q
	again.backend = &backend{cfg: &cfg, protocol: q.protocol, hostname: q.hostname, resolver: q.resolver, tls: backendTLS(&cfg), active: q.active}
	return again.probe(ctx, q.cfg.Send, q.cfg.Forward, auditLeg)
}

func (q *questioning) proxied() bool { return q.cfg.Send != SendNone && q.cfg.Send != "" }

// begin leads a leg as far as a session of the audit's client would be after
// the dial, and has ask speak on it.
func (q *questioning) begin(ctx context.Context, send Send, forward upgraders.Forward, limit time.Duration, ask func(context.Context, *upgraders.Link) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	state := &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	l, err := q.dial(ctx, ctx, q.server, func(netip.AddrPort) []byte {
		return formatProxy(send, auditClient, q.local, state, upgraders.Encrypted)
	})
	if err != nil {
		return err
	}
	defer l.close()
	l.sock.SetDeadline(time.Now().Add(limit))
	l.conn.SetBudget(probeBytes, probeUnits)
	return ask(ctx, &upgraders.Link{
		Backend:     l.conn,
		Server:      q.server.Address,
		Security:    upgraders.Encrypted,
		Facts:       upgraders.Facts{Client: auditClient, Local: q.local, Name: q.hostname, TTL: forwardTTL},
		Forward:     forward,
		PassBinding: q.passBinding(),
		BackendTLS:  l.tls != nil,
		Log:         func(msg string, _ ...any) { q.said = append(q.said, msg) },
	})
}

// probe asks what the server offers.
func (q *questioning) probe(ctx context.Context, send Send, forward upgraders.Forward, limit time.Duration) (offered upgraders.Capabilities, err error) {
	err = q.begin(ctx, send, forward, limit, func(ctx context.Context, link *upgraders.Link) (err error) {
		offered, err = q.protocol.Probe(ctx, link)
		return err
	})
	return offered, err
}

// explain turns the error of a server that does not serve into findings: it
// may want a PROXY header that it does not get, or get one it does not want.
func (q *questioning) explain(ctx context.Context, err error) []upgraders.Finding {
	const (
		expect = "Postfix: smtpd_upstream_proxy_protocol = haproxy; Dovecot: haproxy = yes on the listener and haproxy_trusted_networks; Exim: hosts_proxy"
		unfit  = "compare send with what it expects (" + expect + ")"
	)
	wrong := func(what, mend string) []upgraders.Finding {
		return []upgraders.Finding{{Severity: upgraders.Wrong, What: what, Mend: mend}}
	}
	dialled := !isDial(err)
	if dialled && ctx.Err() == nil && q.protocol.Probe != nil {
		other := SendNone
		if !q.proxied() {
			other = SendProxyV2
		}
		switch offered, perr := q.probe(ctx, other, upgraders.Forward{}, auditQuick); {
		case perr != nil || len(offered) == 0:
		case q.proxied():
			return wrong("does not take the PROXY header: it serves who sends none", "have it expect one from the gateway's address ("+expect+"), or write send = \"none\"")
		default:
			return wrong("waits for a PROXY header, and gets none", "write send = \"proxy-v2\"; the server's setting is ("+expect+")")
		}
	}
	var refusal *upgraders.Refusal
	switch {
	case len(q.said) > 0:
		return wrong(q.said[len(q.said)-1], "")
	case errors.As(err, &refusal):
		return []upgraders.Finding{{
			Severity: upgraders.Doubtful,
			What:     "refuses to serve 192.0.2.1, so that it could not be asked more: " + refusal.Reply,
			Mend:     "look whether it refuses that network for examples, or everybody",
		}}
	case !dialled:
		return wrong("cannot be reached: "+err.Error(), "start it, correct its address, or open the way to it")
	case q.proxied():
		return wrong("does not serve: "+err.Error(), unfit)
	}
	return wrong("does not serve: "+err.Error(), "")
}

// isDial reports whether an error came before the connection stood.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
