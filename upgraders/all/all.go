// Package all is the one list of the protocols that sallyport speaks.
package all

import (
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/ftp"
	"github.com/sallyport/sallyport/upgraders/http"
	"github.com/sallyport/sallyport/upgraders/imap"
	"github.com/sallyport/sallyport/upgraders/irc"
	"github.com/sallyport/sallyport/upgraders/ldap"
	"github.com/sallyport/sallyport/upgraders/lmtp"
	"github.com/sallyport/sallyport/upgraders/mysql"
	"github.com/sallyport/sallyport/upgraders/nntp"
	"github.com/sallyport/sallyport/upgraders/pop3"
	"github.com/sallyport/sallyport/upgraders/postgres"
	"github.com/sallyport/sallyport/upgraders/sieve"
	"github.com/sallyport/sallyport/upgraders/smtp"
	"github.com/sallyport/sallyport/upgraders/tcp"
	"github.com/sallyport/sallyport/upgraders/telnet"
	"github.com/sallyport/sallyport/upgraders/web"
	"github.com/sallyport/sallyport/upgraders/xmpp"
)

// Protocols returns every protocol, in the order in which people are shown
// them.
func Protocols() []*upgraders.Protocol {
	return []*upgraders.Protocol{
		smtp.Protocol(),
		lmtp.Protocol(),
		imap.Protocol(),
		pop3.Protocol(),
		sieve.Protocol(),
		nntp.Protocol(),
		ftp.Protocol(),
		ldap.Protocol(),
		postgres.Protocol(),
		mysql.Protocol(),
		xmpp.Protocol(),
		xmpp.ServerProtocol(),
		irc.Protocol(),
		http.Protocol(),
		telnet.Protocol(),
		tcp.Protocol(),
		web.Protocol(),
	}
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
