package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/upgraders"
)

// auditRig is a configuration of one backend whose protocol is the toy's with
// an audit that reports what the server says.
func auditRig(t *testing.T, change func(*Backend)) *Config {
	r := newRig(t, nil)
	l := *r.cfg.Listeners[0]
	p := *l.Protocol
	p.Audit = func(ctx context.Context, link *upgraders.Link, told upgraders.Told) ([]upgraders.Finding, error) {
		if _, err := link.Backend.ReadLine(100); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(link.Backend, "ask\r\n"); err != nil {
			return nil, err
		}
		line, err := link.Backend.ReadLine(100)
		if err != nil {
			return nil, err
		}
		if string(line) == "log" {
			link.Log("change a setting")
			return nil, upgraders.ErrTryNext
		}
		if string(line) == "busy" {
			return nil, &upgraders.Refusal{Reply: "busy"}
		}
		if link.Facts.Client.Addr() != auditClient.Addr() || link.Security != upgraders.Encrypted || len(told.Ports) != 2 {
			t.Errorf("%+v, %+v", link, told)
		}
		return []upgraders.Finding{{Severity: upgraders.Wrong, What: "said " + string(line)}}, nil
	}
	p.Probe = func(ctx context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
		if _, err := link.Backend.ReadLine(100); err != nil {
			return nil, err
		}
		io.WriteString(link.Backend, "caps\r\n")
		line, err := link.Backend.ReadLine(100)
		return strings.Fields(string(line)), err
	}
	l.Protocol = &p
	b := *l.Routes[0].Backend
	change(&b)
	l.Routes = []*Route{{Backend: &b}}
	// Once for the protocol, however many listeners lead there.
	second := l
	second.Name = "second"
	return &Config{Listeners: []*Listener{&l, &second}}
}

// proxied is a server behind PROXY headers: it waits for one, and answers by
// what it says.
func proxied(t *testing.T, answer func(h *proxyproto.Header, line string) string) string {
	return serve(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		c.SetReadDeadline(time.Now().Add(time.Second))
		h, err := proxyproto.Read(in)
		if err != nil {
			io.WriteString(c, "what?\r\n")
			return
		}
		io.WriteString(c, "backend\r\n")
		line, _ := in.ReadString('\n')
		io.WriteString(c, answer(h, strings.TrimSpace(line))+"\r\n")
	})
}

// plain is a server that greets at once.
func plain(t *testing.T, answer func(line string) string) string {
	return serve(t, func(c net.Conn) {
		io.WriteString(c, "backend\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, answer(strings.TrimSpace(line))+"\r\n")
	})
}

// An audit's client is 192.0.2.1 in TLS, each server is asked once, and what
// the protocol finds comes back in the order of the configuration.
func TestAudit(t *testing.T) {
	var asked atomic.Int32
	tell := func(h *proxyproto.Header, line string) string {
		if line == "ask" {
			asked.Add(1)
		}
		tlvs, _ := h.TLVs()
		ssl := "clear"
		for _, tlv := range tlvs {
			if tlv.Type == proxyproto.PP2_TYPE_SSL {
				ssl = "TLS"
			}
		}
		return h.SourceAddr.(*net.TCPAddr).IP.String() + " in " + ssl
	}
	cfg := auditRig(t, func(b *Backend) {
		b.Send = SendProxyV2
		b.Servers = []Server{{Address: proxied(t, tell)}, {Address: proxied(t, tell)}}
	})
	var progress []string
	audits, err := AuditBackends(t.Context(), cfg, func(a *Audit) { progress = append(progress, a.Server) })
	if err != nil {
		t.Fatal(err)
	}
	if len(audits) != 2 || len(progress) != 2 || asked.Load() != 2 {
		t.Fatalf("%d audits, %d told of, %d asked", len(audits), len(progress), asked.Load())
	}
	for i, a := range audits {
		if a.Server != cfg.Listeners[0].Routes[0].Backend.Servers[i].Address || a.Protocol != "toy" || a.Backend != cfg.Listeners[0].Routes[0].Backend.Name {
			t.Errorf("%+v", a)
		}
		if len(a.Findings) != 1 || a.Findings[0].What != "said 192.0.2.1 in TLS" {
			t.Errorf("%+v", a.Findings)
		}
	}
}

// A server that does not serve is a finding, which says why where that can be
// found out.
func TestAuditExplains(t *testing.T) {
	closed := serve(t, func(net.Conn) {})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, c := range map[string]struct {
		server   string
		send     Send
		what     string
		mend     string
		severity upgraders.Severity
	}{
		"wants a header": {proxied(t, func(*proxyproto.Header, string) string { return "cap" }), SendNone, "waits for a PROXY header", `send = "proxy-v2"`, upgraders.Wrong},
		"wants none": {plain(t, func(line string) string {
			if line == "caps" {
				return "cap"
			}
			return "log"
		}), SendProxyV2, "does not take the PROXY header", `send = "none"`, upgraders.Wrong},
		"a setting":      {plain(t, func(line string) string { return map[string]string{"ask": "log"}[line] }), SendNone, "change a setting", "", upgraders.Wrong},
		"refuses":        {plain(t, func(line string) string { return map[string]string{"ask": "busy"}[line] }), SendNone, "refuses to serve 192.0.2.1", "", upgraders.Doubtful},
		"hangs up":       {closed, SendNone, "does not serve", "", upgraders.Wrong},
		"hangs up on it": {closed, SendProxyV2, "does not serve", "haproxy_trusted_networks", upgraders.Wrong},
		"not there":      {gone.Addr().String(), SendNone, "cannot be reached", "start it", upgraders.Wrong},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := auditRig(t, func(b *Backend) { b.Send, b.Servers = c.send, []Server{{Address: c.server}} })
			audits, err := AuditBackends(t.Context(), cfg, nil)
			if err != nil || len(audits) != 1 || len(audits[0].Findings) != 1 {
				t.Fatalf("%v, %+v", err, audits)
			}
			f := audits[0].Findings[0]
			if f.Severity != c.severity || !strings.Contains(f.What, c.what) || !strings.Contains(f.Mend, c.mend) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// A server that offers more to sessions in TLS, and is not told that this is
// one, or does not believe it, is found; one that offers the same to all is
// not. What no session may use is not missed.
func TestAuditFindsWhatIsHidden(t *testing.T) {
	cert := *pki().issue("backend.example.org")
	// It speaks cleartext and, asked by TLS, TLS.
	starttls := func(inTLS string) string {
		return serve(t, func(c net.Conn) {
			io.WriteString(c, "backend\r\n")
			in := bufio.NewReader(c)
			line, _ := in.ReadString('\n')
			answer := "SIZE"
			if line == "TLS\r\n" {
				io.WriteString(c, "go\r\n")
				c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
				bufio.NewReader(c).ReadString('\n')
				answer = inTLS
			}
			io.WriteString(c, answer+"\r\n")
		})
	}
	byHeader := func(v2 string) string {
		return proxied(t, func(h *proxyproto.Header, line string) string {
			if h.Version == 2 {
				return v2
			}
			return "SIZE"
		})
	}
	for name, c := range map[string]struct {
		server string
		send   Send
		mend   string // "": nothing is found
	}{
		"v1, which cannot tell":     {byHeader("SIZE AUTH"), SendProxyV1, "proxy-v2"},
		"v1, and nothing hidden":    {byHeader("size"), SendProxyV1, ""},
		"not told, hides":           {starttls("SIZE AUTH"), SendNone, "starttls"},
		"not told, hides nothing":   {starttls("SIZE"), SendNone, ""},
		"not told, hides what must": {starttls("SIZE AUTH=EXTERNAL SCRAM-SHA-1-PLUS"), SendNone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := auditRig(t, func(b *Backend) { b.Send, b.Servers = c.send, []Server{{Address: c.server}} })
			audits, err := AuditBackends(t.Context(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			findings := audits[0].Findings[1:] // the first is the protocol's
			switch {
			case c.mend == "" && len(findings) > 0, c.mend != "" && len(findings) != 1:
				t.Errorf("%+v", findings)
			case c.mend != "" && (!strings.Contains(findings[0].What, `"AUTH"`) || !strings.Contains(findings[0].Mend, c.mend)):
				t.Errorf("%+v", findings)
			}
		})
	}
}

// An audit ends with its context, and says so.
func TestAuditEnds(t *testing.T) {
	cfg := auditRig(t, func(b *Backend) {
		b.Servers = []Server{{Address: serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { cancel() }()
	if _, err := AuditBackends(ctx, cfg, nil); err == nil {
		t.Error("no error")
	}
}

// What a client has connected to is the listener's own address where it has
// one.
func TestAuditLocalAddress(t *testing.T) {
	for address, want := range map[string]string{":25": "192.0.2.2:25", "0.0.0.0:25": "192.0.2.2:25", "[::]:25": "192.0.2.2:25", "198.51.100.7:25": "198.51.100.7:25"} {
		local, ports := listenersAddress(&Listener{Addresses: []string{address}})
		if local != netip.MustParseAddrPort(want) || len(ports) != 1 || ports[0] != 25 {
			t.Errorf("%s: %v, %v", address, local, ports)
		}
	}
}
