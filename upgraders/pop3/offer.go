package pop3

import "strings"

// An offer says which of a backend's capabilities a session may see.
type offer struct {
	clear   bool // the session is in cleartext
	auth    bool // and may send a password
	binding bool // channel binding holds through the gateway
}

// show returns a capability as the session may see it; "" for not at all.
func (o offer) show(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	switch strings.ToUpper(words[0]) {
	case "STLS", "XCLIENT":
		return ""
	case "USER", "APOP":
		if o.clear && !o.auth {
			return ""
		}
	case "SASL":
		if o.clear && !o.auth {
			return ""
		}
		kept := words[:1]
		for _, mechanism := range words[1:] {
			if o.mechanism(mechanism) {
				kept = append(kept, mechanism)
			}
		}
		if len(kept) == 1 {
			return ""
		}
		if len(kept) < len(words) {
			return strings.Join(kept, " ")
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
