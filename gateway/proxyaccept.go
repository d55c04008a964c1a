package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	proxyTimeout = 5 * time.Second
	maxProxyV1   = 107     // with CRLF (PROXY protocol 2.1)
	maxProxyV2   = 4 << 10 // header and TLVs; what is seen in the wild is below 600 bytes
)

// proxyV2 is the signature of version 2 (PROXY protocol 2.2).
var proxyV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

// readProxy learns from a trusted load balancer who the client is. Where the
// policy names such peers, each of them must send a header, and nobody else
// may connect: an address that could be either is an address that can be
// forged. Without such a policy nothing is read, and a header is bad input
// like any other.
func (s *session) readProxy() error {
	trusted := s.l.cfg.Policy.ProxyFrom
	if len(trusted) == 0 {
		return nil
	}
	peer := s.client.Addr()
	if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return fmt.Errorf("%w: %s is not in proxy_protocol's from", upgraders.ErrProxy, peer)
	}
	s.sock.SetReadDeadline(s.began.Add(proxyTimeout))
	h, err := readProxyHeader(s.conn)
	if err != nil {
		if err == io.EOF && s.silent() {
			return err // a health check
		}
		return fmt.Errorf("%w: %w", upgraders.ErrProxy, err)
	}
	s.preamble = s.sock.Received() - int64(s.conn.Buffered())
	if h.Command.IsLocal() {
		return nil // the balancer speaks for itself
	}
	source, ok1 := h.SourceAddr.(*net.TCPAddr)
	local, ok2 := h.DestinationAddr.(*net.TCPAddr)
	if !ok1 || !ok2 {
		return fmt.Errorf("%w: it tells no TCP address", upgraders.ErrProxy)
	}
	s.client, s.local = addrPort(source), addrPort(local)
	return nil
}

// readProxyHeader takes exactly one header of either version.
func readProxyHeader(c *wire.Conn) (*proxyproto.Header, error) {
	var raw []byte
	first, err := c.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] == proxyV2[0] {
		head, err := c.Peek(len(proxyV2) + 4)
		if err != nil {
			return nil, fmt.Errorf("header is incomplete: %w", err)
		}
		if !bytes.HasPrefix(head, proxyV2) {
			return nil, errors.New("not a PROXY header")
		}
		n := len(head) + int(binary.BigEndian.Uint16(head[len(head)-2:]))
		if n > maxProxyV2 {
			return nil, fmt.Errorf("header of %d bytes: %w", n, wire.ErrTooLong)
		}
		if raw, err = c.Peek(n); err != nil {
			return nil, fmt.Errorf("header is incomplete: %w", err)
		}
		raw = bytes.Clone(raw)
		c.Discard(n)
	} else {
		line, err := c.ReadLine(maxProxyV1)
		if err != nil {
			return nil, fmt.Errorf("not a PROXY header: %w", err)
		}
		raw = append(bytes.Clone(line), "\r\n"...)
	}
	return proxyproto.Read(bufio.NewReader(bytes.NewReader(raw)))
}
