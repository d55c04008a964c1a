package nntp

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// An offer says which of a backend's capabilities a session may see.
type offer struct {
	refuseAuth bool // the session may not send a password
	binding    bool // channel binding holds through the gateway
}

// show returns a capability as the session may see it; "" for not at all.
func (o offer) show(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	switch strings.ToUpper(words[0]) {
	case "STARTTLS":
		return ""
	case "COMPRESS":
		// RFC 8054, 2.1: TLS is impossible once it is active, and a password
		// could go unseen.
		if o.refuseAuth {
			return ""
		}
	case "AUTHINFO":
		// RFC 4643, 2.1: without arguments it says that there is
		// authentication, and none in this state of the session.
		if o.refuseAuth {
			return words[0]
		}
	case "SASL":
		if o.refuseAuth {
			return ""
		}
		kept := slices.DeleteFunc(slices.Clone(words[1:]), func(m string) bool { return !o.mechanism(m) })
		switch {
		case len(kept) == 0:
			return ""
		case len(kept) < len(words)-1:
			return words[0] + " " + strings.Join(kept, " ")
		}
	}
	return line
}

// mechanism reports whether a SASL mechanism works through the gateway: the
// client certificate and the channel end here (RFC 5802, 6; RFC 4422, A).
func (o offer) mechanism(name string) bool {
	name = strings.ToUpper(name)
	return name != "EXTERNAL" && (o.binding || !strings.HasSuffix(name, "-PLUS"))
}

// lists reports whether a capability is in a list.
func lists(caps upgraders.Capabilities, name string) bool {
	return slices.ContainsFunc(caps, func(line string) bool {
		words := strings.Fields(line)
		return len(words) > 0 && strings.EqualFold(words[0], name)
	})
}
