package config

import (
	"path/filepath"

	"github.com/sallyport/sallyport/certs/tickets"
)

// ticketRing returns what holds the keys of a tls block's shared tickets, or
// nil. There is one for the whole configuration: tls blocks have their own keys
// of it.
func (l *loader) ticketRing(b *tlsBlock) *tickets.Ring {
	var wanted []tickets.Options
	for _, a := range l.root.ACME {
		l.use("acme", a.label())
		if o := l.ticketOptions(a); len(wanted) == 0 || !sameTickets(wanted[0], o) {
			wanted = append(wanted, o)
		}
	}
	switch {
	case len(wanted) == 0:
		l.errorf(b.Tickets.At, "Shared tickets without a store", "Their keys are kept in the store of the acme block, and there is none: write one, or leave tickets out.")
		return nil
	case len(wanted) > 1:
		l.errorf(b.Tickets.At, "Shared tickets with several stores", "Their keys are kept in the store of the acme blocks, and these have different ones: write the same store, with the same path and secret_file, in each.")
		return nil
	}
	if l.tickets != nil {
		return l.tickets
	}
	if p := l.previous; p != nil && p.Tickets != nil && sameTickets(p.Tickets.Options(), wanted[0]) {
		l.tickets = p.Tickets // with the keys that it has
	} else {
		l.tickets = tickets.New(wanted[0])
	}
	return l.tickets
}

// ticketOptions says where ticket keys are, where they are in the store of an
// acme block.
func (l *loader) ticketOptions(b *acmeBlock) tickets.Options {
	o := tickets.Options{Store: l.acmeStore(b)}
	if b.Store == nil || !b.Store.SecretFile.written {
		o.SecretFile, o.Make = filepath.Join(l.path(l.root.State.Path.Value), "tickets.key"), true
		return o
	}
	o.SecretFile = l.path(b.Store.SecretFile.Value)
	return o
}

// checkSecret looks at the secret of a store, used or not.
func (l *loader) checkSecret(b *storeBlock) {
	if b == nil || !b.SecretFile.good() {
		return
	}
	if err := tickets.CheckSecret(l.path(b.SecretFile.Value)); err != nil {
		l.errorf(b.SecretFile.At, "The secret of the store cannot be used", "%s", sentence(err))
	}
}

func sameTickets(a, b tickets.Options) bool {
	return a.Store.String() == b.Store.String() && a.SecretFile == b.SecretFile && a.Make == b.Make
}
