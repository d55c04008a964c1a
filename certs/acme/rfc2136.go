package acme

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// RFC2136 publishes by dynamic updates (RFC 2136) that a TSIG key signs (RFC
// 8945): BIND, Knot, PowerDNS, NSD's primaries and Windows know them.
type RFC2136 struct {
	Server       string        // HOST:PORT of the primary
	KeyName      string        // as the server calls it
	KeyAlgorithm string        // "hmac-sha256", "hmac-sha384" or "hmac-sha512"
	KeySecret    string        // base64
	Zone         string        // "": asked for
	TTL          time.Duration // of the record
	Timeout      time.Duration // until the record is on all name servers
	Resolver     string        // HOST:PORT; "": those of /etc/resolv.conf

	port string // of name servers, for tests
}

var _ DNS = (*RFC2136)(nil)

// Check says what is wrong with the settings.
func (d *RFC2136) Check() error {
	if _, _, err := net.SplitHostPort(d.Server); err != nil {
		return fmt.Errorf("server %q: write HOST:PORT", d.Server)
	}
	if _, ok := dns.IsDomainName(d.KeyName); !ok || d.KeyName == "" {
		return fmt.Errorf("key_name %q is not a domain name, which names of keys are: write it as the server has it", d.KeyName)
	}
	if _, ok := dns.IsDomainName(d.Zone); !ok && d.Zone != "" {
		return fmt.Errorf("zone %q is not a domain name", d.Zone)
	}
	switch d.KeyAlgorithm {
	case "hmac-sha256", "hmac-sha384", "hmac-sha512":
	default:
		return fmt.Errorf("key_algorithm %q is not known here: write hmac-sha256, hmac-sha384 or hmac-sha512", d.KeyAlgorithm)
	}
	const least = 16 // bytes
	switch secret, err := base64.StdEncoding.DecodeString(d.KeySecret); {
	case err != nil:
		return errors.New("key_secret is not base64: write what stands behind secret in the server's own file")
	case len(secret) < least:
		return fmt.Errorf("key_secret has %d bytes, which can be guessed: make a key with tsig-keygen or keymgr -t", len(secret))
	}
	return nil
}

// Patience returns the timeout.
func (d *RFC2136) Patience() time.Duration { return d.Timeout }

// Publish sends an update to the server.
func (d *RFC2136) Publish(ctx context.Context, name, value string) (*Record, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	v := view{primary: d.Server, resolver: d.Resolver, port: d.port}
	at, err := v.follow(ctx, name)
	if err != nil {
		return nil, err
	}
	zone := dns.CanonicalName(d.Zone)
	if d.Zone == "" {
		if zone, err = v.zone(ctx, at); err != nil {
			return nil, err
		}
	} else if !dns.IsSubDomain(zone, at) {
		return nil, fmt.Errorf("%s is not in zone %s: correct zone, or let %s be an alias (CNAME) of a name in it", bare(at), bare(zone), bare(name))
	}
	txt := &dns.TXT{
		Hdr: dns.RR_Header{Name: at, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(d.TTL / time.Second)},
		Txt: []string{value},
	}
	add, remove := new(dns.Msg), new(dns.Msg)
	add.SetUpdate(zone)
	add.Insert([]dns.RR{txt})
	remove.SetUpdate(zone)
	remove.Remove([]dns.RR{dns.Copy(txt)}) // the one record, not the set: RFC 2136, 2.5.4
	r := &Record{
		name: at, value: value, zone: zone, view: v, timeout: d.Timeout,
		remove: func(ctx context.Context) error { return d.update(ctx, remove) },
	}
	err = d.update(ctx, add)
	if refused := (refusal{}); errors.As(err, &refused) {
		return nil, err
	}
	return r, err
}

// update sends an update to the primary.
func (d *RFC2136) update(ctx context.Context, m *dns.Msg) error {
	r, err := exchange(ctx, d.Server, m, &key{dns.CanonicalName(d.KeyName), dns.Fqdn(d.KeyAlgorithm), d.KeySecret})
	if err != nil {
		return err
	}
	zone := bare(m.Question[0].Name)
	name := bare(m.Ns[0].Header().Name)
	todo := ""
	switch r.Rcode {
	case dns.RcodeSuccess:
		return nil
	case dns.RcodeRefused:
		todo = fmt.Sprintf("let the key %s update TXT records of %s (update-policy in BIND, acl in Knot)", d.KeyName, name)
	case dns.RcodeNotAuth:
		todo = "it is not the primary of the zone: correct server or zone"
	case dns.RcodeNotZone:
		todo = name + " is not in it: correct zone"
	case dns.RcodeServerFailure:
		todo = "see its log: it must be able to write the zone and its journal"
	case dns.RcodeNotImplemented:
		todo = "it takes no dynamic updates: allow them, or have them made with dns \"exec\""
	default:
		todo = "see its log"
	}
	return refusal{fmt.Errorf("DNS server %s answers the update of zone %s with %s: %s", d.Server, zone, dns.RcodeToString[r.Rcode], todo)}
}
