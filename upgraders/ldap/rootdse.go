package ldap

import (
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

const scopeBase = 0 // RFC 4511, 4.5.1.2

// A search is what matters of a SearchRequest for the root DSE.
type search struct {
	base       string
	scope      int
	typesOnly  bool
	attributes []string
}

func (m message) search() (q search, err error) {
	base, rest, err := want(tagOctets, m.contents)
	if err != nil {
		return q, err
	}
	scope, rest, err := want(tagEnumerated, rest)
	if err != nil || len(scope) != 1 {
		return q, errBER
	}
	q.base, q.scope = string(base), int(scope[0])
	for _, tag := range []byte{tagEnumerated, tagInteger, tagInteger} { // derefAliases, sizeLimit, timeLimit
		if _, rest, err = want(tag, rest); err != nil {
			return q, err
		}
	}
	typesOnly, rest, err := want(tagBoolean, rest)
	if err != nil {
		return q, err
	}
	q.typesOnly = !isZero(typesOnly)
	if _, _, rest, err = element(rest); err != nil { // the filter: every one is true of the root DSE that clients ask
		return q, err
	}
	list, _, err := want(tagSequence, rest)
	for err == nil && len(list) > 0 {
		var name []byte
		if name, list, err = want(tagOctets, list); err == nil {
			q.attributes = append(q.attributes, string(name))
		}
	}
	return q, err
}

// wants reports whether an attribute was asked for: RFC 4511, 4.5.1.8, and RFC
// 3673 for "+".
func (q search) wants(name string, operational bool) bool {
	all := len(q.attributes) == 0
	for _, a := range q.attributes {
		if strings.EqualFold(a, name) || a == "+" && operational {
			return true
		}
		all = all || a == "*"
	}
	return all && !operational
}

// rootDSE answers a search for it: RFC 4512, 5.1. namingContexts are the
// backend's, as far as they are known.
func rootDSE(m message, q search, contexts upgraders.Capabilities, canTLS bool) []byte {
	var attributes []byte
	add := func(name string, operational bool, values ...string) {
		if len(values) == 0 || !q.wants(name, operational) {
			return
		}
		var set []byte
		if !q.typesOnly {
			for _, v := range values {
				set = append(set, octets(v)...)
			}
		}
		attributes = append(attributes, tlv(tagSequence, octets(name), tlv(tagSet, set))...)
	}
	add("objectClass", false, "top")
	add("namingContexts", true, contexts...)
	add("supportedLDAPVersion", true, "3")
	if canTLS {
		add("supportedExtension", true, oidStartTLS)
	}
	entry := tlv(tagSequence, m.id, tlv(opSearchEntry, octets(""), tlv(tagSequence, attributes)))
	return append(entry, m.result(success, "")...)
}

// withoutStartTLS takes the offer of StartTLS out of an entry, which must be
// the backend's root DSE. It returns nil when there is none in it.
func withoutStartTLS(raw []byte) []byte {
	m, err := parse(raw)
	if err != nil || m.op != opSearchEntry {
		return nil
	}
	dn, rest, err := want(tagOctets, m.contents)
	if err != nil || len(dn) > 0 {
		return nil
	}
	list, _, err := want(tagSequence, rest)
	if err != nil {
		return nil
	}
	var kept []byte
	found := false
	for len(list) > 0 {
		attribute, more, err := want(tagSequence, list)
		if err != nil {
			return nil
		}
		raw := list[:len(list)-len(more)]
		list = more
		name, rest, err := want(tagOctets, attribute)
		if err != nil {
			return nil
		}
		if !strings.EqualFold(string(name), "supportedExtension") {
			kept = append(kept, raw...)
			continue
		}
		set, _, err := want(tagSet, rest)
		if err != nil {
			return nil
		}
		var values []byte
		for len(set) > 0 {
			value, more, err := want(tagOctets, set)
			if err != nil {
				return nil
			}
			if string(value) == oidStartTLS {
				found = true
			} else {
				values = append(values, octets(string(value))...)
			}
			set = more
		}
		if len(values) > 0 {
			kept = append(kept, tlv(tagSequence, octets(string(name)), tlv(tagSet, values))...)
		}
	}
	if !found {
		return nil
	}
	body, _, _ := want(tagSequence, raw)
	_, rest, _ = want(tagInteger, body)
	_, _, controls, _ := element(rest)
	return tlv(tagSequence, m.id, tlv(opSearchEntry, octets(""), tlv(tagSequence, kept)), controls)
}
