package config

import "github.com/hashicorp/hcl/v2"

// notYet lists the blocks and attributes that the schema knows and the gateway
// cannot do, each with what to write instead. They are read, checked and then
// refused, for nothing may be ignored in silence. Whoever builds one of these
// deletes its line.
var notYet = map[string]string{
	"policy.downgrade":  "Leave it out; sallyport report clients shows who comes with less TLS.",
	"tls.records":       "Leave it out.",
	"resolver.trust_ad": "Leave it out: nothing asks for DNSSEC's verdict.",
}

// refuseNotYet reports a use of something in notYet.
func (l *loader) refuseNotYet(path string, at hcl.Range) {
	if instead, ok := notYet[path]; ok {
		l.errorf(at, path+" is not available yet", "%s", instead)
	}
}
