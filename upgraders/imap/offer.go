package imap

import (
	"bytes"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// An offer says which of the backend's offers are true for a session.
type offer struct {
	clear          bool // the session goes without TLS
	refuseAuth     bool // and may not send a password
	passBinding    bool // channel binding reaches the backend
	stripReferrals bool
}

// holds reports whether a capability is true for the session.
func (o offer) holds(capability string) bool {
	c := strings.ToUpper(capability)
	auth, isAuth := strings.CutPrefix(c, "AUTH=")
	switch {
	case c == "STARTTLS":
		// RFC 2595, 3.1: never listed once TLS is active; and a session that
		// was joined in cleartext is not upgraded any more.
		return false
	case o.refuseAuth && (isAuth || c == "SASL-IR"):
		return false
	case isAuth && auth == "EXTERNAL":
		// The backend sees the gateway's connection, not the client's
		// certificate.
		return false
	case isAuth && strings.HasSuffix(auth, "-PLUS"):
		// RFC 5802, 6: the channel that could be bound ends at the gateway.
		return o.passBinding
	}
	return true
}

// announce returns the capabilities of a session that is still in cleartext
// and may be upgraded, from what the backend offers a session in TLS.
func (o offer) announce(learned upgraders.Capabilities, canTLS bool) string {
	var caps []string
	for _, line := range learned {
		for _, c := range strings.Fields(line) {
			if isAtom(c) && o.holds(c) && !slices.ContainsFunc(caps, equals(c)) {
				caps = append(caps, c)
			}
		}
	}
	if caps == nil {
		caps = []string{"IMAP4rev1"} // the shortest honest answer
	}
	if canTLS {
		caps = append(caps, "STARTTLS")
	}
	if o.refuseAuth && !slices.ContainsFunc(caps, equals("LOGINDISABLED")) {
		caps = append(caps, "LOGINDISABLED")
	}
	return strings.Join(caps, " ")
}

func equals(want string) func(string) bool {
	return func(s string) bool { return strings.EqualFold(s, want) }
}

// correct returns a line of the backend as the session may see it, and whether
// it lists LOGINDISABLED. Capabilities are listed in three places: the
// untagged response, and the response code of untagged and tagged ones (RFC
// 9051, 7.1 and 7.2.2). A line in which nothing is wrong is returned as it is.
func (o offer) correct(line []byte) (corrected []byte, loginDisabled bool) {
	r := parseResponse(line)
	if r.tag == "*" && r.word == "CAPABILITY" {
		return o.list(line, r.text, len(trimEOL(line)))
	}
	switch name, begin, args, end := r.code(line); name {
	case "CAPABILITY":
		if line[end-1] == ']' {
			end--
		}
		return o.list(line, args, end)
	case "REFERRAL":
		if o.stripReferrals {
			return slices.Concat(line[:begin], line[skipBlanks(line, end):]), false
		}
	}
	return line, false
}

// list corrects the capabilities in line[begin:end].
func (o offer) list(line []byte, begin, end int) (corrected []byte, loginDisabled bool) {
	kept := make([]byte, 0, end-begin)
	for at := begin; at < end; {
		c, next := nextWord(line[:end], at)
		if c != "" && o.holds(c) {
			kept = append(kept, line[at:next]...)
			loginDisabled = loginDisabled || strings.EqualFold(c, "LOGINDISABLED")
		} else if c == "" {
			// Blanks at the end, or a CR inside the line.
			next = max(next, at+1)
			kept = append(kept, line[at:next]...)
		}
		at = next
	}
	if o.refuseAuth && !loginDisabled {
		kept = append(kept, " LOGINDISABLED"...)
	}
	if bytes.Equal(kept, line[begin:end]) {
		return line, loginDisabled
	}
	return slices.Concat(line[:begin], kept, line[end:]), loginDisabled
}
