package irc

import (
	"fmt"
	"strconv"
	"strings"
)

// An offer says which of a backend's capabilities a session may see.
type offer struct {
	clear    bool // the session is in cleartext
	auth     bool // and may send a password
	binding  bool // channel binding holds through the gateway
	values   bool // the client knows values (CAP LS 302)
	port     int
	duration string
}

// capName is the name of a capability, with whatever stands before or behind.
func capName(word string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-~="), "=")
	return name
}

// show returns a capability as the session may see it; "" for not at all.
func (o offer) show(word string) string {
	name, value, has := strings.Cut(word, "=")
	switch {
	case name == "tls" || name == "sts":
		return ""
	case name == "sasl" && o.clear && !o.auth:
		return ""
	case name == "sasl" && has:
		var kept []string
		for m := range strings.SplitSeq(value, ",") {
			if o.mechanism(m) {
				kept = append(kept, m)
			}
		}
		if len(kept) == 0 {
			return ""
		}
		word = name + "=" + strings.Join(kept, ",")
	}
	if !o.values && has {
		return name
	}
	return word
}

// mechanism reports whether a SASL mechanism works through the gateway: the
// client certificate and the channel end here (RFC 5802, 6; RFC 4422, A).
func (o offer) mechanism(name string) bool {
	name = strings.ToUpper(name)
	return name != "EXTERNAL" && (o.binding || !strings.HasSuffix(name, "-PLUS"))
}

// sts is the policy: where TLS is, for a session in cleartext, and for how
// long it is to be used, for one in TLS. Clients that know it know values.
func (o offer) sts() string {
	switch {
	case !o.values:
	case o.clear && o.port != 0:
		return fmt.Sprintf("sts=port=%d", o.port)
	case !o.clear && o.duration != "":
		return "sts=duration=" + o.duration
	}
	return ""
}

// fold writes a list of capabilities as lines of at most 510 bytes, all but
// the last marked by a star. Only who knows values knows that; who doesn't
// gets the first line.
func fold(head string, words []string, more bool) []string {
	var lines []string
	line := ""
	for _, word := range words {
		if line != "" && len(head)+len(" * :")+len(line)+1+len(word) > maxCommand-2 {
			if !more {
				break
			}
			lines = append(lines, head+" * :"+line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, head+" :"+line)
}

// version is what a CAP LS says that the client knows.
func (m message) version() int {
	if len(m.params) < 2 {
		n, _ := strconv.Atoi(m.last)
		return n
	}
	n, _ := strconv.Atoi(m.params[1])
	return n
}

func printable(word string) bool {
	return !strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
