// Package lmtp upgrades LMTP (RFC 2033) by STARTTLS (RFC 3207). It is SMTP but
// for the verb that greets and the replies to each recipient, so the words are
// package smtp's.
package lmtp

import (
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/smtp"
)

// Protocol describes LMTP.
func Protocol() *upgraders.Protocol { return smtp.LMTP() }
