package gateway

import (
	"errors"
	"os"
	"time"
)

// beginsWithTLS reports whether this connection is one of implicit TLS. On an
// auto listener the client's first byte says so; where the server is to greet
// first, a client that waits for the greeting is taken to be one, after
// auto_wait. That is a guess, the only one the gateway makes, and `check`
// recommends two ports instead: a ClientHello that comes later ends the
// session, with a log line that names the cause.
func (s *session) beginsWithTLS() (bool, error) {
	if s.l.cfg.Mode != Auto {
		return s.l.cfg.Mode == Implicit, nil
	}
	wait := s.l.cfg.Policy.Dialogue.Timeout
	if s.l.cfg.Protocol.ServerFirst {
		wait = s.l.cfg.AutoWait
	}
	s.sock.SetReadDeadline(time.Now().Add(wait))
	b, err := s.conn.Peek(1)
	if s.l.cfg.Protocol.ServerFirst && errors.Is(err, os.ErrDeadlineExceeded) && s.gw.ctx.Err() == nil {
		return false, nil
	}
	return err == nil && b[0] == 0x16, err
}
