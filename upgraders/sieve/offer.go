package sieve

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// An offer says which of a backend's capabilities a session may see.
type offer struct {
	refuseAuth bool // the session may not send a password
	starttls   bool // it may still ask for TLS
	binding    bool // channel binding holds through the gateway
}

// show returns the value of a capability as the session may see it, and
// whether it may see the capability at all.
func (o offer) show(name, value string) (string, bool) {
	switch strings.ToUpper(name) {
	case "STARTTLS", "XCLIENT":
		return "", false
	case "SASL":
		words := strings.Fields(value)
		kept := slices.DeleteFunc(slices.Clone(words), func(m string) bool { return !o.mechanism(m) })
		if len(kept) < len(words) {
			value = strings.Join(kept, " ")
		}
		// RFC 5804, 1.7: the list may be empty only where TLS is offered.
		return value, len(kept) > 0 || o.starttls
	}
	return value, true
}

// mechanism reports whether a SASL mechanism works through the gateway: the
// client certificate and the channel end here (RFC 5802, 6; RFC 4422, A).
func (o offer) mechanism(name string) bool {
	name = strings.ToUpper(name)
	return !o.refuseAuth && name != "EXTERNAL" && (o.binding || !strings.HasSuffix(name, "-PLUS"))
}

// correct returns a line of a backend's capability list as the session may see
// it; nil: not at all. A line in which nothing is wrong is returned as it is.
func (o offer) correct(r response) []byte {
	name, value, hasValue := r.capability()
	shown, ok := o.show(name, value)
	switch {
	case !ok:
		return nil
	case !hasValue || shown == value:
		return r.line
	}
	return slices.Concat(r.line[:r.tokens[1].begin], []byte(quote(shown)), r.line[r.tokens[1].end:])
}

// announce returns the capability list of a session that is still in cleartext
// and may be upgraded, from what the backend offers a session in TLS.
func (o offer) announce(learned upgraders.Capabilities) string {
	var list strings.Builder
	seen := map[string]bool{}
	add := func(name, value string, hasValue bool) {
		shown, ok := o.show(name, value)
		if key := strings.ToUpper(name); !ok || seen[key] {
			return
		} else {
			seen[key] = true
		}
		list.WriteString(quote(name))
		if hasValue {
			list.WriteString(" " + quote(shown))
		}
		list.WriteString("\r\n")
	}
	for _, line := range learned {
		add(strings.Cut(line, " "))
	}
	// RFC 5804, 1.7: these are always there. It is the shortest honest answer
	// where nothing is known of the backend.
	add("IMPLEMENTATION", "sallyport", true)
	add("SIEVE", "", true)
	add("SASL", "", true)
	add("VERSION", "1.0", true)
	if o.starttls {
		list.WriteString("\"STARTTLS\"\r\n")
	}
	return list.String()
}
