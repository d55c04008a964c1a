package smtp

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// probe asks a backend what it offers. go-smtp's client will not do: it keeps
// the extensions in a map, without their order, and lifts the deadline of its
// connection after each command.
func (v variant) probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	capabilities, err := v.hello(link)
	if err != nil {
		return nil, err
	}
	// The answer is known; a server that hangs up on QUIT has given it.
	command(link.Backend, "QUIT")
	return capabilities, nil
}

// hello begins a session of the gateway's own and returns what is offered.
func (v variant) hello(link *upgraders.Link) (upgraders.Capabilities, error) {
	r, err := v.introduce(link)
	if err != nil {
		return nil, err
	}
	if r.class() != 2 {
		return nil, r.refusal()
	}
	r, err = command(link.Backend, "%s %s", v.helloVerb, link.Facts.Name)
	if err != nil {
		return nil, err
	}
	capabilities := upgraders.Capabilities{}
	switch {
	case r.class() == 2:
		capabilities = append(capabilities, r.lines[1:]...)
	case r.class() == 5 && v.helo():
		// A server without extensions.
		if r, err = command(link.Backend, "HELO %s", link.Facts.Name); err != nil {
			return nil, err
		}
	}
	if r.class() != 2 {
		return nil, r.refusal()
	}
	return capabilities, nil
}

// request asks a backend for TLS.
func (v variant) request(_ context.Context, backend *wire.Conn, _ string) error {
	r, err := readReply(backend)
	if err != nil {
		return err
	}
	if r.class() != 2 {
		return fmt.Errorf("%w: %w", upgraders.ErrNotOffered, r.refusal())
	}
	if r, err = command(backend, "%s %s", v.helloVerb, literal(backend.LocalAddr())); err != nil {
		return err
	}
	listed := false
	for _, line := range r.lines[1:] {
		listed = listed || keyword(line) == "STARTTLS"
	}
	if r.class() != 2 || !listed {
		return fmt.Errorf("%w: the server does not list STARTTLS", upgraders.ErrNotOffered)
	}
	if r, err = command(backend, "STARTTLS"); err != nil {
		return err
	}
	if r.code != 220 {
		return fmt.Errorf("%w: %w", upgraders.ErrNotOffered, r.refusal())
	}
	if backend.Pipelined() {
		// CVE-2021-38371: they would be taken for something said inside TLS.
		return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
	}
	return nil
}

// literal names a host that has no other name here: RFC 5321, 4.1.3.
func literal(a net.Addr) string {
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if tcp, ok := a.(*net.TCPAddr); ok && tcp.AddrPort().IsValid() {
		ip = tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	if ip.Is6() {
		return "[IPv6:" + ip.String() + "]"
	}
	return "[" + ip.String() + "]"
}
