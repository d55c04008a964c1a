package gateway

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"crypto/tls"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/upgraders"
)

// proxyHeader is what a backend that understands the PROXY protocol is told of
// this session before its first byte.
func (s *session) proxyHeader(send Send) []byte {
	return formatProxy(send, s.client, s.local, s.tls, s.security)
}

// PP2_TYPE_SSL's client bits (PROXY protocol 2.2.6).
const (
	pp2ClientSSL      = 0x01
	pp2ClientCertConn = 0x02
	pp2ClientCertSess = 0x04
)

func formatProxy(send Send, client, local netip.AddrPort, state *tls.ConnectionState, security upgraders.Security) []byte {
	if send == SendNone || send == "" {
		return nil
	}
	h := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	if send == SendProxyV1 {
		h.Version = 1
	}
	if client.IsValid() && local.IsValid() {
		h.Command = proxyproto.PROXY
		h.TransportProtocol = proxyproto.TCPv4
		if client.Addr().Is6() || local.Addr().Is6() {
			h.TransportProtocol = proxyproto.TCPv6
			client = netip.AddrPortFrom(netip.AddrFrom16(client.Addr().As16()), client.Port())
			local = netip.AddrPortFrom(netip.AddrFrom16(local.Addr().As16()), local.Port())
		}
		h.SourceAddr = net.TCPAddrFromAddrPort(client)
		h.DestinationAddr = net.TCPAddrFromAddrPort(local)
	}
	if h.Version == 2 && state != nil && state.HandshakeComplete {
		h.SetTLVs(tlvs(state, security))
	}
	b, err := h.Format()
	if err != nil {
		// Both addresses are of one family and each TLV is short: there is
		// nothing left that Format refuses.
		panic(fmt.Sprintf("PROXY header: %v", err))
	}
	return b
}

// tlvs tells the TLS facts of the client's side.
func tlvs(state *tls.ConnectionState, security upgraders.Security) []proxyproto.TLV {
	var list []proxyproto.TLV
	if state.NegotiatedProtocol != "" {
		list = append(list, proxyproto.TLV{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte(state.NegotiatedProtocol)})
	}
	if state.ServerName != "" {
		list = append(list, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(state.ServerName)})
	}
	// verify is zero only where we verified a certificate: a backend that
	// takes zero for "identified" must not do so for everyone.
	bits, verify := byte(pp2ClientSSL), uint32(1)
	if security == upgraders.Authenticated {
		bits, verify = bits|pp2ClientCertSess, 0
		if !state.DidResume {
			bits |= pp2ClientCertConn
		}
	}
	ssl := binary.BigEndian.AppendUint32([]byte{bits}, verify)
	sub := func(kind proxyproto.PP2Type, value string) {
		ssl = append(ssl, byte(kind), byte(len(value)>>8), byte(len(value)))
		ssl = append(ssl, value...)
	}
	sub(proxyproto.PP2_SUBTYPE_SSL_VERSION, versionName(state.Version))
	sub(proxyproto.PP2_SUBTYPE_SSL_CIPHER, tls.CipherSuiteName(state.CipherSuite))
	if security == upgraders.Authenticated {
		if cn := state.VerifiedChains[0][0].Subject.CommonName; cn != "" && len(cn) <= 256 {
			sub(proxyproto.PP2_SUBTYPE_SSL_CN, cn)
		}
	}
	return append(list, proxyproto.TLV{Type: proxyproto.PP2_TYPE_SSL, Value: ssl})
}

// versionName is a TLS version as OpenSSL writes it, which is what HAProxy
// sends and backends compare with.
func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS10:
		return "TLSv1"
	case tls.VersionTLS11:
		return "TLSv1.1"
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return ""
}
