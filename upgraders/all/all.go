// Package all is the one list of the protocols that sallyport speaks.
package all

import "github.com/sallyport/sallyport/upgraders"

// Protocols returns every protocol, in the order in which people are shown
// them.
func Protocols() []*upgraders.Protocol {
	return []*upgraders.Protocol{}
}

// Lookup returns the protocol of a name, or nil.
func Lookup(name string) *upgraders.Protocol {
	for _, p := range Protocols() {
		if p.Name == name {
			return p
		}
	}
	return nil
}
