// Package ftp upgrades FTP by AUTH TLS: RFC 4217 and 2228, for the sessions of
// RFC 959 with the data connections of RFC 2428. Implicit TLS is that of
// Microsoft's MS-FTPS, which no RFC describes.
//
// Before TLS the gateway answers AUTH, FEAT, HELP, NOOP, QUIT and SYST itself.
// Inside TLS the control connection is filtered to its end, one command at a
// time: PBSZ, PROT, CCC, AUTH and REIN are the gateway's affair, and the
// addresses of PASV, EPSV, PORT and EPRT are rewritten, so that data
// connections pass the gateway, which ends TLS on them as well. The backend is
// always asked for a passive port, whichever side the client wants to connect.
//
// FXP (a PORT to a third machine), CCC, REIN, block mode and RFC 1639 are not
// spoken.
package ftp

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// Protocol describes FTP.
func Protocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:     "ftp",
		Title:    "FTP",
		Spec:     "RFC 4217, 2228, 959, 2428",
		Keyword:  "AUTH TLS",
		Ports:    []uint16{21},
		Implicit: []uint16{990},
		ALPN:     []string{"ftp"},
		// FileZilla asks for an id of its own on data connections.
		DataALPN:      []string{"ftp-data", "ftp"},
		ServerFirst:   true,
		IdleTimeout:   15 * time.Minute,
		CleartextAuth: true,
		Options:       func() any { return &options{PassivePorts: "40000-40999", RequireProt: "P"} },
		New:           newUpgrader,
		Probe:         probe,
		Audit:         audit,
		Request:       request,
		Greeting:      []byte("220 ready\r\n"),
	}
}

// options are what a listener can be told.
type options struct {
	PassivePorts        string `hcl:"passive_ports,optional" doc:"where clients connect for data, such as \"40000-40999\"; \"0\": any free port"`
	PublicAddress       string `hcl:"public_address,optional" doc:"the IPv4 address that PASV names, where it is not the one that the client has connected to"`
	RequireProt         string `hcl:"require_prot,optional" doc:"the least protection of data inside TLS: \"P\" is TLS, \"C\" leaves it to the client"`
	RequireSessionReuse bool   `hcl:"require_session_reuse,optional" doc:"data connections must resume the TLS session of their control connection; some clients cannot"`
}

type upgrader struct {
	first, last  uint16 // of the passive ports
	public       netip.Addr
	clearData    bool // inside TLS, data may go without
	requireReuse bool
}

var _ upgraders.Upgrader = (*upgrader)(nil)

func newUpgrader(opts any) (upgraders.Upgrader, error) {
	o := opts.(*options)
	u := &upgrader{requireReuse: o.RequireSessionReuse}
	var ok bool
	if u.first, u.last, ok = ports(o.PassivePorts); !ok {
		return nil, fmt.Errorf("passive_ports is %q; write two ports from 1024 up, such as \"40000-40999\"", o.PassivePorts)
	}
	if o.PublicAddress != "" {
		var err error
		if u.public, err = netip.ParseAddr(o.PublicAddress); err != nil || !u.public.Is4() || u.public.IsUnspecified() {
			return nil, fmt.Errorf("public_address is %q; write an IPv4 address (IPv6 clients use EPSV, which names none)", o.PublicAddress)
		}
	}
	switch o.RequireProt {
	case "P":
	case "C":
		u.clearData = true
	default:
		return nil, fmt.Errorf("require_prot is %q; write \"P\" or \"C\"", o.RequireProt)
	}
	return u, nil
}

// ports reads a range.
func ports(text string) (first, last uint16, ok bool) {
	if text == "0" {
		return 0, 0, true
	}
	a, b, _ := strings.Cut(text, "-")
	low, err1 := strconv.ParseUint(a, 10, 16)
	high, err2 := strconv.ParseUint(b, 10, 16)
	return uint16(low), uint16(high), err1 == nil && err2 == nil && 1024 <= low && low <= high
}

// Upgrade implements upgraders.Upgrader.
func (u *upgrader) Upgrade(ctx context.Context, s *upgraders.Session) (upgraders.Handover, error) {
	d := &dialogue{Dialogue: upgraders.Dialogue{Session: s}, upgrader: u}
	return d.run(ctx)
}

// Implicit implements upgraders.Upgrader. A client on such a port takes PBSZ 0
// and PROT P for said (MS-FTPS, 3.2.5.1).
func (u *upgrader) Implicit(s *upgraders.Session) upgraders.Handover {
	p := &passage{upgrader: u, session: s, greet: true, sized: true, private: true}
	return upgraders.Handover{
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return upgraders.Say(client, unavailable(cause))
		},
	}
}

// starttls is what follows AUTH.
func (u *upgrader) starttls(s *upgraders.Session) upgraders.Handover {
	p := &passage{upgrader: u, session: s}
	return upgraders.Handover{
		Verdict:  upgraders.StartTLS,
		Reply:    []byte("234 Begin TLS negotiation\r\n"),
		Injected: []byte("421 Nothing may follow AUTH before TLS\r\n"),
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			// No greeting is due: the bad news answers the first command.
			line, err := client.ReadSlice(maxLine)
			if upgraders.IsHTTP(line) {
				return upgraders.ErrHTTP
			}
			if err != nil {
				return err
			}
			return upgraders.Say(client, unavailable(cause))
		},
	}
}

// cleartext is what follows the first command that needs the backend, which is
// replayed.
func (u *upgrader) cleartext(s *upgraders.Session, pending string) upgraders.Handover {
	p := &passage{upgrader: u, session: s, clear: true, refuseAuth: !s.Listener.CleartextAuth, pending: pending}
	return upgraders.Handover{
		Verdict:  upgraders.Cleartext,
		Join:     p.join,
		Converse: p.converse,
		Unavailable: func(_ context.Context, client *wire.Conn, cause error) error {
			return upgraders.Say(client, unavailable(cause))
		},
	}
}
