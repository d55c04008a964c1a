package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A DNS publishes the proof that dns-01 asks for (RFC 8555, 8.4). It holds no
// state: two of equal settings do the same.
type DNS interface {
	// Publish adds value to the TXT records of name, beside what is there
	// already: a domain and its wildcard are proved under one name at the same
	// time. Where name is an alias, the record goes to where that leads.
	//
	// A Record that is returned beside an error may have been published and
	// has to be removed as well.
	Publish(ctx context.Context, name, value string) (*Record, error)

	// Patience is how long Publish may take, and Wait, and Remove.
	Patience() time.Duration
}

// A Record is a TXT record that was published.
type Record struct {
	name, value string // where it really is
	zone        string
	view        view
	timeout     time.Duration
	remove      func(ctx context.Context) error
}

// Remove takes the record away, and no other.
func (r *Record) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.remove(ctx)
}

// Wait returns when all name servers of the zone answer with the record, for
// the authority may ask any of them. Those that do not answer at all may be out
// of reach for this machine only, and do not count.
func (r *Record) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	servers, err := r.view.servers(ctx, r.zone)
	if err != nil {
		return err
	}
	lacking := make(chan string, len(servers))
	for _, server := range servers {
		go func() { lacking <- r.await(ctx, server) }()
	}
	var without []string
	for range servers {
		if server := <-lacking; server != "" {
			without = append(without, server)
		}
	}
	switch err := context.Cause(ctx); {
	case len(without) == 0:
		return nil
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	slices.Sort(without)
	return fmt.Errorf("after %s the name server %s of %s still answers without the TXT record of %s: see that the zone is transferred to it, or raise timeout where that takes longer",
		r.timeout, strings.Join(without, ", "), bare(r.zone), bare(r.name))
}

// await asks one server until it has the record, then returns "". When time is
// up before, it returns the server.
func (r *Record) await(ctx context.Context, server string) (lacking string) {
	const deaf = 3 // questions without an answer
	failures := 0
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		answer, err := exchange(ctx, server, question(r.name, dns.TypeTXT, false), nil)
		switch {
		case err != nil || answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
			if failures++; failures == deaf && ctx.Err() == nil {
				return ""
			}
		case slices.ContainsFunc(answer.Answer, r.is):
			return ""
		default:
			failures = 0
		}
		select {
		case <-ctx.Done():
			if failures > 0 {
				return "" // it was asked and said nothing
			}
			return server
		case <-time.After(pause):
		}
	}
}

func (r *Record) is(rr dns.RR) bool {
	txt, ok := rr.(*dns.TXT)
	return ok && dns.CanonicalName(txt.Hdr.Name) == r.name && strings.Join(txt.Txt, "") == r.value
}

// A view is where questions about names are answered.
type view struct {
	primary  string // HOST:PORT of a server that is believed where it is authoritative; "": none
	resolver string // HOST:PORT of who is asked else; "": those of /etc/resolv.conf
	port     string // of the zones' name servers; "": 53
}

// ask returns the answer to a question: that there is no such name or record
// is one.
func (v *view) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	if v.primary != "" {
		r, err := exchange(ctx, v.primary, question(name, qtype, false), nil)
		if err != nil {
			return nil, err
		}
		if r.Authoritative && (r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError) {
			return r, nil
		}
	}
	resolvers := []string{v.resolver}
	if v.resolver == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(conf.Servers) == 0 {
			return nil, fmt.Errorf("no resolver to ask about %s: write resolver { address = \"…\" }", bare(name))
		}
		resolvers = nil
		for _, s := range conf.Servers {
			resolvers = append(resolvers, net.JoinHostPort(s, conf.Port))
		}
	}
	var errs []error
	for _, resolver := range resolvers {
		r, err := exchange(ctx, resolver, question(name, qtype, true), nil)
		switch {
		case err != nil:
			errs = append(errs, err)
		case r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError:
			errs = append(errs, fmt.Errorf("resolver %s answers %s for %s %s", resolver, dns.RcodeToString[r.Rcode], bare(name), dns.TypeToString[qtype]))
		default:
			return r, nil
		}
	}
	return nil, errors.Join(errs...)
}

// follow returns where the aliases of a name lead, so that one zone can be
// given over to this alone: _acme-challenge.example.org CNAME
// example-org.acme.example.net.
func (v *view) follow(ctx context.Context, name string) (string, error) {
	const most = 8
	at := dns.CanonicalName(name)
	for range most {
		r, err := v.ask(ctx, at, dns.TypeCNAME)
		if err != nil {
			return "", err
		}
		i := slices.IndexFunc(r.Answer, func(rr dns.RR) bool {
			return rr.Header().Rrtype == dns.TypeCNAME && dns.CanonicalName(rr.Header().Name) == at
		})
		if i < 0 {
			return at, nil
		}
		at = dns.CanonicalName(r.Answer[i].(*dns.CNAME).Target)
		if !plain(at) {
			return "", fmt.Errorf("%s is an alias of %q: use letters, digits, hyphens, underscores and dots only, since programs and their logs see the name", bare(name), bare(at))
		}
	}
	return "", fmt.Errorf("%s leads through more than %d aliases: shorten them, they may go in a circle", bare(name), most)
}

// plain reports whether a name is one that nothing mistakes for something else.
func plain(name string) bool {
	odd := func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	}
	return !strings.HasPrefix(name, "-") && !strings.ContainsFunc(name, odd)
}

// zone returns the zone that a name is in.
func (v *view) zone(ctx context.Context, name string) (string, error) {
	for at := name; at != "."; at = parent(at) {
		r, err := v.ask(ctx, at, dns.TypeSOA)
		if err != nil {
			return "", err
		}
		// RFC 2308, 3: the SOA comes with an answer that there is none, too.
		for _, rr := range slices.Concat(r.Answer, r.Ns) {
			zone := dns.CanonicalName(rr.Header().Name)
			if rr.Header().Rrtype == dns.TypeSOA && dns.IsSubDomain(zone, name) && zone != "." {
				return zone, nil
			}
		}
	}
	return "", fmt.Errorf("no zone has the name %s: write zone = \"…\", or correct the name", bare(name))
}

// servers returns the addresses of the name servers of a zone, and of the
// primary, which may be hidden.
func (v *view) servers(ctx context.Context, zone string) (addrs []string, err error) {
	const most = 20
	port := v.port
	if port == "" {
		port = "53"
	}
	if v.primary != "" {
		addrs = append(addrs, v.primary)
	}
	r, err := v.ask(ctx, zone, dns.TypeNS)
	if err != nil {
		return nil, err
	}
	for _, rr := range r.Answer {
		ns, ok := rr.(*dns.NS)
		if !ok {
			continue
		}
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			r, err := v.ask(ctx, dns.CanonicalName(ns.Ns), qtype)
			if err != nil {
				continue // the others know the record as well
			}
			for _, rr := range r.Answer {
				switch rr := rr.(type) {
				case *dns.A:
					addrs = append(addrs, net.JoinHostPort(rr.A.String(), port))
				case *dns.AAAA:
					addrs = append(addrs, net.JoinHostPort(rr.AAAA.String(), port))
				}
			}
		}
	}
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	return addrs[:min(most, len(addrs))], nil
}

// question returns a query; recurse asks a resolver to find the answer.
func question(name string, qtype uint16, recurse bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.RecursionDesired = recurse
	m.SetEdns0(1232, false)
	return m
}

// A key signs messages and proves answers (RFC 8945).
type key struct {
	name      string // canonical
	algorithm string
	secret    string // base64
}

// A refusal is the server's word, which another way to ask would not change.
type refusal struct{ error }

// exchange asks by UDP, and by TCP where the answer does not fit into a packet
// or none comes.
func exchange(ctx context.Context, server string, m *dns.Msg, k *key) (*dns.Msg, error) {
	var refused refusal
	r, err := exchangeBy(ctx, "udp", server, m, k)
	if err != nil && !errors.As(err, &refused) || err == nil && r.Truncated {
		if ctx.Err() == nil {
			r, err = exchangeBy(ctx, "tcp", server, m, k)
		}
	}
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil && !errors.As(err, &refused):
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("DNS server %s: %w", server, err)
}

func exchangeBy(ctx context.Context, network, server string, m *dns.Msg, k *key) (*dns.Msg, error) {
	const patience = 3 * time.Second
	c := &dns.Client{Net: network, Timeout: patience}
	m = m.Copy()
	m.Id = dns.Id()
	if k != nil {
		const fudge = 300 // seconds (RFC 8945, 10)
		m.SetTsig(k.name, k.algorithm, fudge, time.Now().Unix())
		c.TsigSecret = map[string]string{k.name: k.secret}
	}
	dialled, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := c.DialContext(dialled, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	if k != nil && r != nil {
		err = k.check(r, err)
	}
	switch {
	case err != nil:
		return nil, err
	case !r.Response || r.Opcode != m.Opcode:
		return nil, errors.New("what came is not an answer to what was asked")
	case m.Opcode == dns.OpcodeQuery && r.Rcode == dns.RcodeSuccess && !slices.EqualFunc(m.Question, r.Question, sameQuestion):
		return nil, errors.New("what came is not an answer to what was asked")
	}
	return r, nil
}

// check says what is wrong with the signature of an answer. err is what
// verifying it came to.
func (k *key) check(r *dns.Msg, err error) error {
	algorithm := strings.TrimSuffix(k.algorithm, ".")
	t := r.IsTsig()
	switch {
	case t == nil && err != nil:
		return err
	case t == nil:
		// RFC 8945, 5.3: an answer to what was signed is signed.
		return refusal{fmt.Errorf("the answer (%s) is not signed: let the server know the key %s, and see that it is the server itself that answers", dns.RcodeToString[r.Rcode], bare(k.name))}
	case t.Error == dns.RcodeBadKey:
		return refusal{fmt.Errorf("it does not know the key %s with %s: correct key_name and key_algorithm, or add the key there and let it update TXT records", bare(k.name), algorithm)}
	case t.Error == dns.RcodeBadSig:
		return refusal{fmt.Errorf("key_secret is not that of the key %s: write the secret that the server has", bare(k.name))}
	case t.Error == dns.RcodeBadTime, errors.Is(err, dns.ErrTime):
		return refusal{errors.New("its clock and that of this machine differ by more than five minutes: set them")}
	case t.Error != dns.RcodeSuccess:
		return refusal{fmt.Errorf("it refuses the signature by the key %s: %s", bare(k.name), dns.RcodeToString[int(t.Error)])}
	case errors.Is(err, dns.ErrAuth):
		return nil // so package dns calls NOTAUTH, which the signature isn't checked of
	case err != nil:
		return refusal{fmt.Errorf("the signature of the answer is wrong (%s): write the key_secret that the server has for %s", strings.TrimPrefix(err.Error(), "dns: "), bare(k.name))}
	}
	return nil
}

func sameQuestion(a, b dns.Question) bool {
	return dns.CanonicalName(a.Name) == dns.CanonicalName(b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// parent returns a name without its first label.
func parent(name string) string {
	if i, end := dns.NextLabel(name, 0); !end {
		return name[i:]
	}
	return "."
}

// bare returns a name as people write it.
func bare(name string) string { return strings.TrimSuffix(name, ".") }
