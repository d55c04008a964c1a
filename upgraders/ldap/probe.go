package ldap

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// maxContexts bounds what is kept of a backend's namingContexts.
const maxContexts = 64

// probe asks for the root DSE's namingContexts, without a bind. A backend that
// wants one first serves all the same.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	id := []byte{tagInteger, 1, 1}
	query := tlv(tagSequence, id, tlv(opSearch, octets(""), enumerated(scopeBase), enumerated(0), []byte{tagInteger, 1, 0}, []byte{tagInteger, 1, 10},
		[]byte{tagBoolean, 1, 0}, tlv(0x87, []byte("objectClass")), tlv(tagSequence, octets("namingContexts"))))
	if _, err := link.Backend.Write(query); err != nil {
		return nil, err
	}
	contexts := upgraders.Capabilities{}
	for {
		m, err := next(link.Backend)
		if err != nil {
			return nil, err
		}
		contents := append([]byte(nil), m.contents...)
		link.Backend.Discard(m.length)
		switch m.op {
		case opSearchEntry:
			contexts = append(contexts, values(contents, "namingContexts")...)
			if len(contexts) > maxContexts {
				contexts = contexts[:maxContexts]
			}
		case opSearchDone:
			code, _, err := want(tagEnumerated, contents)
			if err != nil || len(code) != 1 {
				return nil, broken("a result without a code")
			}
			if code[0] == busy || code[0] == unavailable {
				return nil, &upgraders.Refusal{Reply: fmt.Sprintf("resultCode %d", code[0])}
			}
			link.Backend.Write(tlv(tagSequence, []byte{tagInteger, 1, 2}, []byte{opUnbind, 0}))
			return contexts, nil
		}
	}
}

// values returns those of an attribute in an entry.
func values(entry []byte, name string) (list []string) {
	_, rest, err := want(tagOctets, entry)
	if err != nil {
		return nil
	}
	attributes, _, err := want(tagSequence, rest)
	for err == nil && len(attributes) > 0 {
		var attribute, kind, set []byte
		if attribute, attributes, err = want(tagSequence, attributes); err != nil {
			break
		}
		if kind, attribute, err = want(tagOctets, attribute); err != nil || !strings.EqualFold(string(kind), name) {
			continue
		}
		set, _, err = want(tagSet, attribute)
		for err == nil && len(set) > 0 {
			var v []byte
			if v, set, err = want(tagOctets, set); err == nil {
				list = append(list, string(v))
			}
		}
	}
	return list
}

// request asks a server for TLS: RFC 4511, 4.14.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	if _, err := backend.Write(tlv(tagSequence, []byte{tagInteger, 1, 1}, tlv(opExtended, tlv(0x80, []byte(oidStartTLS))))); err != nil {
		return err
	}
	m, err := next(backend)
	if err != nil {
		return err
	}
	code, _, err := want(tagEnumerated, m.contents)
	if err != nil || m.op != opExtendedResp || len(code) != 1 {
		return broken("no answer to StartTLS")
	}
	backend.Discard(m.length)
	if code[0] != success {
		return fmt.Errorf("%w: resultCode %d", upgraders.ErrNotOffered, code[0])
	}
	if backend.Pipelined() {
		return broken("bytes behind the go-ahead for TLS")
	}
	return nil
}
