package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// notYet lists what the schema knows and the gateway cannot do. It is read,
// checked and then refused, for nothing may be ignored in silence. Whoever
// builds one of these deletes its line.
var notYet = []struct {
	path    string // of a block or attribute; "listener" for a protocol
	value   string // of the attribute or label; "": whatever it is
	instead string
}{
	{"policy.downgrade", "", "Leave it out; sallyport report clients shows who comes with less TLS."},

	{"tls.records", "", "Leave it out."},

	{"resolver.trust_ad", "", "Leave it out: nothing asks for DNSSEC's verdict."},
}

// refuseNotYet reports a use of something in notYet.
func (l *loader) refuseNotYet(path string, value cty.Value, at hcl.Range) bool {
	for _, f := range notYet {
		if f.path != path || f.value != "" && !is(value, f.value) {
			continue
		}
		what := path
		switch {
		case path == "listener":
			what = "The protocol " + f.value
			var names []string
			for _, p := range l.protocols {
				names = append(names, p.Name)
			}
			f.instead = "Write " + oneOf(names) + "."
		case f.value != "":
			what = fmt.Sprintf("%s = %q", path, f.value)
		}
		l.errorf(at, what+" is not available yet", "%s", f.instead)
		return true
	}
	return false
}

func is(v cty.Value, s string) bool {
	return v.IsKnown() && !v.IsNull() && v.Type() == cty.String && v.AsString() == s
}
