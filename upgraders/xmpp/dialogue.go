package xmpp

import (
	"bytes"
	"context"
	"slices"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A dialogue is the cleartext part of a session.
type dialogue struct {
	variant
	session  *upgraders.Session
	opening  *opening
	host     string // that the stream is for
	answered bool   // the client has had a header
	told     bool   // that TLS is required
}

// run answers until the client asks for TLS, goes on without it, or is turned
// away.
func (d *dialogue) run(ctx context.Context) (upgraders.Handover, error) {
	conn, listener := d.session.Conn, d.session.Listener
	var err error
	if d.opening, err = readOpening(&scan{c: conn, max: maxElement}); err == nil {
		err = d.judge(d.opening)
	}
	if err != nil {
		return d.turnedAway(err)
	}
	if d.host = hostOf(d.opening.tag.get("to")); d.host == "" {
		return d.turnedAway(errHost)
	}
	if !d.session.Routed(d.host) {
		return d.turnedAway(upgraders.ErrNoRoute)
	}
	conn.Discard(len(d.opening.raw))
	p := &passage{variant: d.variant, name: listener.Hostname, clear: true, auth: listener.CleartextAuth,
		opening: d.opening.raw, versions: d.opening.versions}
	switch {
	case !listener.Cleartext && !d.opening.versions:
		return d.turnedAway(errVersion)
	case !listener.Cleartext:
		err = d.offer()
	default:
		if err := d.session.Preview(ctx, d.host, p.hear); err != nil {
			return upgraders.Handover{Reply: []byte(p.unavailable(err))}, err
		}
		if p.heard.features == nil {
			return d.cleartext(p), nil // nothing that TLS could be added to
		}
		err = d.show(p)
	}
	if err != nil {
		return upgraders.Handover{}, err
	}
	for {
		h, err := d.element(p)
		if err != nil || h.Verdict != upgraders.HangUp {
			return h, err
		}
	}
}

// offer answers the stream: there is TLS, and nothing else.
func (d *dialogue) offer() error {
	d.answered, d.told = true, true
	_, err := d.session.Conn.Write([]byte(d.header(d.opening.tag.get("to"), hostOf(d.opening.tag.get("from"))) +
		"<stream:features><starttls xmlns='" + nsTLS + "'><required/></starttls></stream:features>"))
	return err
}

// show shows the client the backend's answer, with TLS among what it offers.
func (d *dialogue) show(p *passage) error {
	a := p.heard
	features := p.offer(false).rewrite(a.raw[a.from:], a.features)
	if d.session.CanTLS() {
		features = insert(features, "<starttls xmlns='"+nsTLS+"'/>")
	}
	d.answered, p.answered = true, true
	_, err := d.session.Conn.Write(slices.Concat(a.raw[:a.from], features))
	p.preview.Discard(len(a.raw))
	return err
}

// element answers what the client says next. A zero Handover without an error
// means that the dialogue goes on.
func (d *dialogue) element(p *passage) (upgraders.Handover, error) {
	conn := d.session.Conn
	s := &scan{c: conn, max: maxElement}
	k, raw, err := s.next()
	if err == nil && k != text {
		err = conn.Spend()
	}
	if err != nil {
		return d.turnedAway(err)
	}
	switch {
	case k == text && isSpace(raw[0]):
		conn.Discard(len(raw) - len(bytes.TrimLeft(raw, " \t\r\n")))
		return upgraders.Handover{}, nil
	case k == ends:
		if t, err := parseTag(raw); err != nil || t.prefix != d.opening.tag.prefix || t.local != d.opening.tag.local {
			return d.turnedAway(errMalformed)
		}
		return upgraders.Handover{Reply: []byte(quit)}, upgraders.LeftWithoutTLS(d.told, upgraders.ErrQuit)
	case k == prolog:
		return d.turnedAway(errMalformed)
	case k == text, k == cdata:
		return d.turnedAway(errFormat)
	}
	if raw, err = s.element(); err != nil {
		return d.turnedAway(err)
	}
	e, err := parseElement(raw)
	if err != nil {
		return d.turnedAway(err)
	}
	switch {
	case e.local == "starttls" && d.opening.scope.in(e.tag) == nsTLS:
		// RFC 6120, 5.4.2.1: the element is empty.
		if len(e.children) > 0 || !isSpace([]byte(e.text)...) {
			return d.turnedAway(errFormat)
		}
		conn.Discard(len(raw))
		return d.startTLS()
	case d.session.Listener.Cleartext:
		return d.cleartext(p), nil // it stays in the buffer
	}
	return d.turnedAway(upgraders.ErrNeedsTLS)
}

// startTLS hands over to TLS.
func (d *dialogue) startTLS() (upgraders.Handover, error) {
	if !d.session.CanTLS() {
		return upgraders.Handover{Reply: []byte(failure)}, upgraders.ErrNotOffered
	}
	// RFC 6120, 5.3.3 forbids white space behind the element, and clients send
	// it all the same. It means nothing, whoever has written it.
	conn := d.session.Conn
	for conn.Pipelined() {
		if b, err := conn.Peek(1); err != nil || !isSpace(b...) {
			break
		}
		conn.Discard(1)
	}
	p := &passage{variant: d.variant, name: d.session.Listener.Hostname}
	h := p.handover()
	h.Accept = p.accept(d.host)
	h.Verdict = upgraders.StartTLS
	h.Reply = []byte(proceed)
	h.Injected = []byte(streamError("policy-violation", "Nothing may follow starttls before TLS"))
	return h, nil
}

// cleartext hands over to a session without TLS.
func (d *dialogue) cleartext(p *passage) upgraders.Handover {
	h := p.handover()
	h.Verdict = upgraders.Cleartext
	h.Accept = func(context.Context, *wire.Conn) (upgraders.Route, error) {
		return upgraders.Route{Host: d.host}, nil
	}
	return h
}

// turnedAway ends the dialogue with a stream error, where there are words.
func (d *dialogue) turnedAway(err error) (upgraders.Handover, error) {
	words := lastWords(err)
	if words != "" && !d.answered {
		// RFC 6120, 4.9.1.2: there is a stream first.
		words = d.header(d.session.Listener.Hostname, "") + words
	}
	return upgraders.Handover{Reply: []byte(words)}, upgraders.LeftWithoutTLS(d.told, err)
}
