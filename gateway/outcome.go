package gateway

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/internal/relay"
)

// An outcome is how a session ended: the log's `outcome` and the metric's
// label. The set is closed.
type outcome string

const (
	outcomeOK             outcome = "ok"               // both streams ended
	outcomeConnectOnly    outcome = "connect_only"     // connected and left: a health check
	outcomeSilent         outcome = "silent"           // connected and said nothing until the deadline
	outcomeLeft           outcome = "left"             // left during the dialogue, with or without QUIT
	outcomeRejected       outcome = "rejected"         // by the rules of the dialogue; `reason` says which
	outcomeLimit          outcome = "limit"            // a limit of the policy
	outcomeHandshake      outcome = "handshake_failed" // after the go-ahead, or on an implicit port
	outcomeChallenge      outcome = "challenge"        // an authority has looked at a name's certificate (RFC 8737)
	outcomeNoRoute        outcome = "no_route"         // no route takes the name
	outcomeBackendDown    outcome = "backend_down"     // no server could be dialled
	outcomeBackendRefused outcome = "backend_refused"  // every server refused service
	outcomeBackendGone    outcome = "backend_gone"     // the backend broke the stream
	outcomeClientGone     outcome = "client_gone"      // the client broke the stream
	outcomeIdle           outcome = "idle"             // idle_timeout
	outcomeStalled        outcome = "stalled"          // stall_timeout
	outcomeShutdown       outcome = "shutdown"         // the drain timeout ran out
	outcomePanic          outcome = "panic"            // a bug; the stack is in the log
)

var relayOutcomes = map[relay.Outcome]outcome{
	relay.OK:          outcomeOK,
	relay.ClientGone:  outcomeClientGone,
	relay.BackendGone: outcomeBackendGone,
	relay.Idle:        outcomeIdle,
	relay.Stalled:     outcomeStalled,
	relay.Shutdown:    outcomeShutdown,
}

// level says who should see an outcome: what clients do every day is info,
// health checks are debug, what the operator must mend is a warning.
func (o outcome) level() slog.Level {
	switch o {
	case outcomeConnectOnly, outcomeLimit: // limits are told of by themselves
		return slog.LevelDebug
	case outcomeBackendDown, outcomeBackendRefused, outcomeNoRoute:
		return slog.LevelWarn
	case outcomePanic:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// maxErrorText bounds an error in the log: some quote a certificate's names.
const maxErrorText = 500

// finish writes the one log line and counts the session. Nothing in it was
// chosen freely by a client but the SNI, which is a host name or absent.
func (s *session) finish(o outcome) {
	s.gw.metrics.sessionsTotal.WithLabelValues(s.l.cfg.Name, s.l.cfg.Protocol.Name, s.security.String(), string(o)).Inc()
	level := o.level()
	if s.reason == "injection" {
		level = slog.LevelWarn
	}
	if !s.gw.log.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("cid", s.cid),
		slog.String("listener", s.l.cfg.Name),
		slog.String("protocol", s.l.cfg.Protocol.Name),
		slog.String("client", s.client.String()),
		slog.String("security", s.security.String()),
		slog.String("outcome", string(o)),
	}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("reason", s.reason)
	add("backend", s.server)
	if t := s.tls; t != nil {
		if validServerName(t.ServerName) {
			add("sni", t.ServerName)
		}
		if t.HandshakeComplete {
			add("tls_version", versionName(t.Version))
			add("cipher", tls.CipherSuiteName(t.CipherSuite))
			if t.CurveID != 0 {
				add("group", t.CurveID.String())
			}
			attrs = append(attrs, slog.Bool("resumed", t.DidResume))
		}
	}
	attrs = append(attrs,
		slog.Int64("bytes_in", s.sock.Received()),
		slog.Int64("bytes_out", s.sock.Sent()),
		slog.Float64("duration", time.Since(s.began).Seconds()))
	if s.err != nil {
		text := s.err.Error()
		add("error", text[:min(len(text), maxErrorText)])
	}
	s.gw.log.LogAttrs(context.Background(), level, "session", attrs...)
}
