package xmpp

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/net/idna"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	nsStream = "http://etherx.jabber.org/streams"
	nsTLS    = "urn:ietf:params:xml:ns:xmpp-tls"
	nsErrors = "urn:ietf:params:xml:ns:xmpp-streams"

	// RFC 6120, 13.12: a limit on stanzas is not below 10000 bytes.
	maxElement = 10000
	// What a backend may say in one element, and a client that is in a session.
	maxInside = 32 << 10
)

// Why a stream cannot go on.
var (
	errNamespace = fmt.Errorf("%w: the namespace of the stream is another", upgraders.ErrSyntax)
	errPrefix    = fmt.Errorf("%w: a namespace prefix that stands for nothing", upgraders.ErrSyntax)
	errFormat    = fmt.Errorf("%w: XML that is not XMPP", upgraders.ErrSyntax)
	errHost      = fmt.Errorf("%w: the stream is for no host that is served here", upgraders.ErrSyntax)
	errMoved     = fmt.Errorf("%w: the stream inside TLS is for another host than before", upgraders.ErrSyntax)
	errVersion   = fmt.Errorf("%w: a stream from before XMPP 1.0 has no STARTTLS", upgraders.ErrNeedsTLS)
	errAgain     = fmt.Errorf("%w: a request for TLS where it cannot be had any more", upgraders.ErrSyntax)
)

// conditions has the stream error (RFC 6120, 4.9.3) for an error, or "" for one
// that leaves nobody to speak to.
var conditions = upgraders.Answers[string]{
	{upgraders.ErrBackend, ""},
	{upgraders.ErrHTTP, ""},
	{wire.ErrClientHello, ""},
	{wire.ErrStalled, ""},
	{errRestricted, "restricted-xml"},
	{errEncoding, "unsupported-encoding"},
	{errNamespace, "invalid-namespace"},
	{errPrefix, "bad-namespace-prefix"},
	{errFormat, "bad-format"},
	{errHost, "host-unknown"},
	{errMoved, "host-unknown"},
	{upgraders.ErrNoRoute, "host-unknown"},
	{errVersion, "unsupported-version"},
	{upgraders.ErrSyntax, "not-well-formed"},
	{wire.ErrBareNewline, "not-well-formed"},
	{wire.ErrNUL, "not-well-formed"},
	{upgraders.ErrNeedsTLS, "policy-violation"},
	{wire.ErrTooLong, "policy-violation"},
	{wire.ErrBudget, "policy-violation"},
	{wire.ErrShutdown, "system-shutdown"},
	{os.ErrDeadlineExceeded, "connection-timeout"},
}

// unavailable has the stream error for a backend that cannot be had, unless it
// is what most are: remote-connection-failed.
var unavailable = upgraders.Answers[string]{
	{upgraders.ErrNoRoute, "host-unknown"},
	{upgraders.ErrLimit, "resource-constraint"},
}

// lastWords ends a stream because of an error, or is "" where nothing is to be
// said.
func lastWords(err error) string {
	condition := conditions.To(err)
	switch {
	case errors.Is(err, errAgain):
		// RFC 6120, 5.4.2.2: the failure, and the end.
		return failure
	case condition == "":
		return ""
	case errors.Is(err, upgraders.ErrNeedsTLS) && condition == "policy-violation":
		return streamError(condition, "TLS is required; use STARTTLS")
	}
	return streamError(condition, "")
}

const (
	proceed = "<proceed xmlns='" + nsTLS + "'/>"
	failure = "<failure xmlns='" + nsTLS + "'/></stream:stream>"
	quit    = "</stream:stream>"
)

func streamError(condition, text string) string {
	if text != "" {
		text = "<text xmlns='" + nsErrors + "' xml:lang='en'>" + text + "</text>"
	}
	return "<stream:error><" + condition + " xmlns='" + nsErrors + "'/>" + text + "</stream:error>" + quit
}

// header opens the gateway's side of a stream. from and to are names that were
// looked at, so they hold nothing but letters: RFC 6120, 4.7.1 and 4.7.2 want
// them. A client's own address is not repeated to it.
func (v variant) header(from, to string) string {
	id := make([]byte, 16) // RFC 6120, 4.7.3: unpredictable
	rand.Read(id)
	var b strings.Builder
	fmt.Fprintf(&b, "<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s'", v.content, nsStream)
	if v.servers {
		b.WriteString(" xmlns:db='jabber:server:dialback'")
	}
	fmt.Fprintf(&b, " from='%s'", from)
	if to != "" {
		fmt.Fprintf(&b, " to='%s'", to)
	}
	fmt.Fprintf(&b, " id='%s' version='1.0' xml:lang='en'>", hex.EncodeToString(id))
	return b.String()
}

// An opening is a stream's header.
type opening struct {
	raw      []byte // as it came, with the XML declaration
	tag      tag
	scope    scope
	versions bool // XMPP 1.0 or later: there are features
}

// readOpening looks at the beginning of a stream, and takes none of it.
func readOpening(s *scan) (*opening, error) {
	first, err := s.c.Peek(1)
	if err != nil {
		return nil, err
	}
	switch first[0] {
	case 0, 0xef, 0xfe, 0xff:
		return nil, errEncoding // RFC 6120, 11.6: UTF-8, and no byte order mark
	case '<', ' ', '\t', '\r', '\n':
	default:
		if _, err := upgraders.ReadCommand(s.c, maxLine); err != nil {
			return nil, err
		}
		return nil, errMalformed
	}
	if err := s.c.Spend(); err != nil {
		return nil, err
	}
	k, raw, err := s.next()
	if err == nil && k == prolog {
		if err = declaration(raw); err != nil {
			return nil, err
		}
		s.at += len(raw)
		k, raw, err = s.skip()
	} else if err == nil && k == text {
		k, raw, err = s.skip()
	}
	switch {
	case err != nil:
		return nil, err
	case k != starts:
		return nil, errMalformed
	}
	o := &opening{}
	if o.tag, err = parseTag(raw); err != nil {
		return nil, err
	}
	s.at += len(raw)
	o.raw = bytes.Clone(s.c.Unread()[:s.at])
	o.scope = scopeOf(o.tag)
	o.versions, err = isOne(o.tag.get("version"))
	return o, err
}

// maxLine bounds what is no XML at all: it is looked at for what else it is.
const maxLine = 512

// declaration checks an XML declaration.
func declaration(raw []byte) error {
	attrs, err := parseAttrs(raw[len(markProlog) : len(raw)-len("?>")])
	if err != nil {
		return err
	}
	t := tag{attrs: attrs}
	if e := t.get("encoding"); e != "" && !strings.EqualFold(e, "UTF-8") {
		return errEncoding
	}
	if !strings.HasPrefix(t.get("version"), "1.") {
		return errMalformed
	}
	return nil
}

// isOne reports whether a stream's version is 1.0 or later. RFC 6120, 4.7.5: no
// version is 0.9.
func isOne(version string) (bool, error) {
	major, minor, _ := strings.Cut(version, ".")
	if version != "" && !isNumber(major, minor) {
		return false, errFormat
	}
	return strings.Trim(major, "0") != "", nil
}

func isNumber(texts ...string) bool {
	for _, s := range texts {
		if s == "" || strings.Trim(s, "0123456789") != "" {
			return false
		}
	}
	return true
}

// judge says what is wrong with a stream of a client's.
func (v variant) judge(o *opening) error {
	space, known := o.scope[o.tag.prefix]
	switch {
	case !known && o.tag.prefix != "":
		return errPrefix
	case o.tag.local != "stream":
		return errFormat
	case space != nsStream, o.scope[""] != v.content:
		return errNamespace // RFC 6120, 4.9.3.10
	}
	return nil
}

// hostOf returns a name as routes have it: letters of ASCII, in lower case. It
// is "" for what is no name of a host. RFC 6120, 4.7.2: a stream is for a
// domain.
func hostOf(name string) string {
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return ""
		}
	}
	if len(host) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return ""
		}
	}
	return host
}
