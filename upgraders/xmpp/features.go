package xmpp

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// An offer says which of a backend's features a session may see.
type offer struct {
	clear   bool // the session is in cleartext
	auth    bool // and may send a password
	binding bool // channel binding holds through the gateway
}

// rewrite returns a features element without what the session may not see; the
// rest is as it was.
func (o offer) rewrite(raw []byte, features *node) []byte {
	var kept []byte
	at := 0
	o.walk(features, func(dropped *node) {
		kept = append(kept, raw[at:dropped.from]...)
		at = dropped.to
	})
	return append(kept, raw[at:]...)
}

// insert puts a child first into an element.
func insert(element []byte, child string) []byte {
	var l lexer
	k, n, _ := l.token(element)
	if k == starts {
		return slices.Concat(element[:n], []byte(child), element[n:])
	}
	t, _ := parseTag(element)
	name := t.local
	if t.prefix != "" {
		name = t.prefix + ":" + name
	}
	return slices.Concat(bytes.TrimSuffix(element, []byte("/>")), []byte(">"+child+"</"+name+">"))
}

// walk calls drop for what is to be taken out, in order.
func (o offer) walk(n *node, drop func(*node)) {
	for _, c := range n.children {
		if o.drops(c) {
			drop(c)
		} else {
			o.walk(c, drop)
		}
	}
}

func (o offer) drops(n *node) bool {
	switch n.local {
	case "starttls":
		return true
	case "sasl-channel-binding": // XEP-0440
		return !o.binding
	case "mechanism":
		return !o.usable(n.text)
	case "mechanisms", "authentication", "fast": // RFC 6120, 6.3.3; XEP-0388; XEP-0484
		return o.noPassword() || len(o.mechanisms(n)) == 0
	case "auth", "register": // XEP-0078, XEP-0077: passwords, too
		return o.noPassword()
	case "compression": // XEP-0138: a session in cleartext is read to its end
		return o.clear
	}
	return false
}

func (o offer) noPassword() bool { return o.clear && !o.auth }

// mechanisms lists those of a list that work through the gateway.
func (o offer) mechanisms(list *node) (names []string) {
	for _, c := range list.children {
		if c.local == "mechanism" && o.usable(c.text) {
			names = append(names, strings.TrimSpace(c.text))
		}
	}
	return names
}

// usable reports whether a SASL mechanism works through the gateway: the client
// certificate and the channel end here (RFC 5802, 6; RFC 4422, A).
func (o offer) usable(mechanism string) bool {
	name := strings.ToUpper(strings.TrimSpace(mechanism))
	if name == "EXTERNAL" {
		return false
	}
	binds := strings.HasSuffix(name, "-PLUS")
	if strings.HasPrefix(name, "HT-") { // XEP-0484
		binds = !strings.HasSuffix(name, "-NONE")
	}
	return o.binding || !binds
}

// complaint says why nobody can log in who is shown these features, or is "".
func (o offer) complaint(features *node) string {
	if o.noPassword() {
		return ""
	}
	for _, list := range []string{"mechanisms", "authentication"} {
		if l := features.child(list); l != nil && len(o.mechanisms(l)) > 0 {
			return ""
		}
	}
	switch starttls := features.child("starttls"); {
	case starttls != nil && starttls.child("required") != nil:
		return "the backend wants TLS of the gateway before it lets anyone log in"
	case features.child("mechanisms") != nil || starttls != nil:
		return "the backend offers no login that works through the gateway"
	}
	return ""
}

const mendLogin = "reach it with tls { mode = \"starttls\" }, or have it let clients log in without TLS, and nobody else reach it (Prosody: c2s_require_encryption = false, allow_unencrypted_plain_auth = true; ejabberd: starttls_required: false)"

// an answer is what a server answers to a stream.
type answer struct {
	raw      []byte // valid until the next read
	from     int    // where the first element stands
	scope    scope
	features *node
	failed   *node // a stream error
}

// readAnswer looks at a server's header and, where there are versions, at the
// first element, which are the features or an error. It takes none of it.
func readAnswer(c *wire.Conn, versions bool) (*answer, error) {
	s := &scan{c: c, max: maxInside}
	o, err := readOpening(s)
	if err != nil {
		return nil, err
	}
	if o.tag.local != "stream" {
		return nil, broken("no stream")
	}
	a := &answer{raw: o.raw, from: len(o.raw), scope: o.scope}
	if !versions || !o.versions {
		return a, nil
	}
	k, _, err := s.skip()
	if err != nil {
		return nil, err
	}
	if k != starts && k != empty {
		return nil, broken("no features")
	}
	a.from = s.at
	raw, err := s.element()
	if err != nil {
		return nil, err
	}
	a.raw = c.Unread()[:s.at]
	e, err := parseElement(raw)
	switch {
	case err != nil:
		return nil, broken(err.Error())
	case e.local == "features":
		a.features = e
	case e.local == "error":
		a.failed = e
	default:
		return nil, broken("no features")
	}
	return a, nil
}

// condition is the name of a stream error.
func (a *answer) condition() string {
	for _, c := range a.failed.children {
		if c.local != "text" {
			return c.local
		}
	}
	return "undefined-condition"
}

// passing reports whether a stream error may be another server's joy.
func (a *answer) passing() bool {
	switch a.condition() {
	case "system-shutdown", "resource-constraint", "internal-server-error", "remote-connection-failed", "connection-timeout", "reset":
		return true
	}
	return false
}

func broken(what string) error { return fmt.Errorf("%w: %s", upgraders.ErrBackend, what) }
