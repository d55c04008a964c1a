package smtp

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// An offer says which of a backend's extensions are true for a session.
type offer struct {
	tls     bool // the session is in TLS
	auth    bool // it may send a password
	binding bool // channel binding reaches the backend
}

var inTLS = offer{tls: true, auth: true}

// inClear is the offer to a session without TLS.
//
// AUTH is listed only where cleartext_auth says that passwords may travel in
// clear. It has to be listed there: a client that is shown no AUTH sends none
// (RFC 4954, 3), and the session would not work as it does without a gateway.
func inClear(l *upgraders.Listener) offer {
	return offer{auth: l.Cleartext && l.CleartextAuth}
}

// extensions is what the last EHLO reply told of the backend.
type extensions struct {
	chunking   bool // BDAT is a command
	privileged bool // XCLIENT or XFORWARD: offered to the gateway's address
	hidden     bool // the session does not see all of it
}

// unknown is the state without an EHLO reply, in which the worst is assumed.
var unknown = extensions{privileged: true, hidden: true}

// read takes a line of an EHLO reply, without its code, and returns what the
// session may see of it: all, a part or nothing.
func (x *extensions) read(o offer, line string) string {
	shown := x.show(o, line)
	if shown != line {
		x.hidden = true
	}
	return shown
}

func (x *extensions) show(o offer, line string) string {
	switch keyword(line) {
	case "STARTTLS", "X-ANONYMOUSTLS":
		// RFC 3207, 4.2: not listed once TLS is active; and a session joined
		// in cleartext is not upgraded any more. The second is Exchange's.
		return ""
	case "REQUIRETLS":
		// RFC 8689, 2: a promise for the next hop, which is in clear here.
		return ""
	case "XCLIENT", "XFORWARD":
		x.privileged = true
		return ""
	case "CHUNKING":
		x.chunking = true
	case "AUTH", "X-EXPS":
		return o.mechanisms(line)
	}
	return line
}

// keyword returns the name of an extension in upper case. A "=" ends it too,
// for AUTH=LOGIN, which was written before RFC 2554 was final.
func keyword(line string) string {
	if i := strings.IndexAny(line, " \t="); i >= 0 {
		line = line[:i]
	}
	return strings.ToUpper(line)
}

// mechanisms takes out of an AUTH line what cannot work through a gateway.
func (o offer) mechanisms(line string) string {
	if !o.auth {
		return ""
	}
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return line
	}
	all := strings.Fields(line[i+1:])
	kept := slices.DeleteFunc(slices.Clone(all), func(name string) bool {
		name = strings.ToUpper(name)
		// EXTERNAL: the client's certificate ends at the gateway. -PLUS: so
		// does the channel that could be bound (RFC 5802, 6).
		return name == "EXTERNAL" || strings.HasSuffix(name, "-PLUS") && !o.binding
	})
	switch len(kept) {
	case len(all):
		return line
	case 0:
		return ""
	}
	return line[:i+1] + strings.Join(kept, " ")
}
