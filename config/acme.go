package config

import (
	"encoding/base64"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/certs/acme"
)

type acmeBlock struct {
	block
	Name            attr[ident]           `hcl:"name,label"`
	Directory       attr[string]          `hcl:"directory" doc:"URL of the authority's directory (RFC 8555, 7.1.1)"`
	Email           attr[string]          `hcl:"email,optional" doc:"where the authority can reach you"`
	AcceptTOS       attr[bool]            `hcl:"accept_tos,optional" default:"false" doc:"that you agree to the authority's terms of service; needed"`
	CAFile          attr[string]          `hcl:"ca_file,optional" unset:"the system's authorities" doc:"PEM file with the authorities to trust for the directory itself"`
	Manager         attr[string]          `hcl:"manager,optional" default:"autocert" enum:"autocert|advanced" doc:"what talks to the authority; advanced has dns-01, wildcards, several names in one certificate, profiles, and asks when to renew (RFC 9773)"`
	Challenges      attr[[]string]        `hcl:"challenges,optional" unset:"dns-01 with a dns block, else those of tls-alpn-01 and http-01 that listeners answer" enum:"tls-alpn-01|http-01|dns-01" doc:"how the authority may verify names; they are tried in turn, the one that worked last first"`
	Profile         attr[string]          `hcl:"profile,optional" unset:"the authority's choice" doc:"kind of certificate, by the authority's name for it, such as shortlived; for manager = \"advanced\""`
	Store           *storeBlock           `hcl:"store,block" doc:"Where accounts and certificates are kept. Replicas that share a store share what is in it. Without the block: a directory in state.path."`
	ExternalAccount *externalAccountBlock `hcl:"external_account,block" doc:"The account that the authority gave you (RFC 8555, 7.3.4)."`
	DNS             *dnsBlock             `hcl:"dns,block" doc:"Who publishes the TXT records of dns-01 (RFC 8555, 8.4): rfc2136 sends signed updates to a name server, exec runs a program. For manager = \"advanced\"."`
}

type storeBlock struct {
	block
	Kind       attr[string] `hcl:"kind,label" enum:"dir"`
	Path       attr[string] `hcl:"path,optional" unset:"acme in state.path" doc:"the directory"`
	SecretFile attr[string] `hcl:"secret_file,optional" unset:"tickets.key in state.path, made when it is not there" doc:"file with what the keys of shared tickets are encrypted with in the store: 32 bytes or more, the same for every replica, and in no backup of the store"`
}

type externalAccountBlock struct {
	block
	KeyID attr[string] `hcl:"key_id" doc:"the key's name"`
	HMAC  attr[string] `hcl:"hmac" doc:"the key, base64url; keep it in a file and write file(\"path\")"`
}

type dnsBlock struct {
	block
	Kind         attr[string]        `hcl:"kind,label" enum:"rfc2136|exec"`
	Server       attr[server]        `hcl:"server,optional" doc:"rfc2136: host:port of the primary name server; needed"`
	KeyName      attr[string]        `hcl:"key_name,optional" doc:"rfc2136: name of the TSIG key (RFC 8945), as the server has it; needed"`
	KeyAlgorithm attr[string]        `hcl:"key_algorithm,optional" default:"hmac-sha256" enum:"hmac-sha256|hmac-sha384|hmac-sha512" doc:"rfc2136: what the key signs with"`
	KeySecret    attr[string]        `hcl:"key_secret,optional" doc:"rfc2136: the key, base64; keep it in a file and write file(\"path\"); needed"`
	Zone         attr[string]        `hcl:"zone,optional" unset:"asked for" doc:"rfc2136: the zone to update"`
	TTL          attr[time.Duration] `hcl:"ttl,optional" default:"1m" doc:"rfc2136: how long resolvers may keep the record"`
	Command      attr[[]string]      `hcl:"command,optional" doc:"exec: the program, by its whole path, and its arguments; needed. It is run without a shell, with present or cleanup, the name and the value of the record behind them"`
	Timeout      attr[time.Duration] `hcl:"timeout,optional" default:"2m" doc:"how long an update or a run of the program may take, and how long it may be until all name servers of the zone have the record"`
}

func (b *acmeBlock) label() string { return string(b.Name.Value) }

func (b *acmeBlock) advanced() bool { return b.Manager.Value == "advanced" }

// challenges returns how names are proved to the authority.
func (b *acmeBlock) challenges() []string {
	switch {
	case b.Challenges.good():
		return b.Challenges.Value
	case b.DNS != nil:
		return []string{"dns-01"}
	}
	return []string{"tls-alpn-01", "http-01"}
}

// checkACME reports what is wrong with an authority before any of its
// certificates is looked at.
func (l *loader) checkACME(b *acmeBlock) {
	if u, err := url.Parse(b.Directory.Value); b.Directory.good() && (err != nil || u.Scheme != "https" || u.Host == "") {
		l.errorf(b.Directory.At, "Unsuitable value for directory", "ACME is spoken in HTTPS only (RFC 8555, 6.1): write a URL such as https://acme.example.org/directory, and ca_file where its certificate is from a private authority.")
	}
	if address, err := mail.ParseAddress(b.Email.Value); b.Email.good() && (err != nil || address.Address != b.Email.Value) {
		l.errorf(b.Email.At, "Unsuitable value for email", "Write one mail address and nothing else, such as hostmaster@example.org.")
	}
	if !b.AcceptTOS.bad && !b.AcceptTOS.Value {
		at := b.At
		if b.AcceptTOS.written {
			at = b.AcceptTOS.At
		}
		l.errorf(at, "Terms of service", "An authority issues to those who agree to its terms only (RFC 8555, 7.3.3): read them, and write accept_tos = true.")
	}
	if e := b.ExternalAccount; e != nil && e.HMAC.good() {
		if _, err := e.key(); err != nil {
			// Not at the value, which is a secret.
			l.errorf(e.At, "Unsuitable value for hmac", "It is not base64url: write the key as the authority shows it, with the letters A-Z, a-z, 0-9, - and _.")
		}
	}
	if !b.Manager.bad {
		l.checkManager(b)
	}
	if b.DNS != nil {
		l.checkDNS(b.DNS)
	}
}

// key returns the key of an external account. Authorities show it with and
// without padding.
func (b *externalAccountBlock) key() ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(b.HMAC.Value), "="))
}

// checkManager refuses what the manager cannot do.
func (l *loader) checkManager(b *acmeBlock) {
	dns01 := slices.Contains(b.challenges(), "dns-01")
	advanced := func(at hcl.Range, what string) {
		l.errorf(at, "Missing manager", "%s is there with manager = \"advanced\" only: write that into acme %q.", what, b.label())
	}
	switch {
	case b.advanced():
	case b.Challenges.good() && dns01:
		advanced(b.Challenges.At, "dns-01")
	case b.DNS != nil:
		advanced(b.DNS.At, "dns-01")
	}
	if b.Profile.written && !b.advanced() {
		advanced(b.Profile.At, "profile")
	}
	switch {
	case b.Challenges.bad:
	case dns01 && b.DNS == nil:
		l.errorf(b.Challenges.At, "Missing block dns", "Somebody has to publish the record of dns-01: write a block dns \"rfc2136\" { … } for a name server that takes updates, or dns \"exec\" { … } for a program.")
	case !dns01 && b.DNS != nil:
		l.errorf(b.DNS.At, "Unused block dns", "No name is proved by dns-01: add it to challenges, or leave the block out.")
	}
	for i, c := range b.Challenges.Value {
		if slices.Contains(b.Challenges.Value[:i], c) {
			l.errorf(b.Challenges.At, "Unsuitable value for challenges", "%s is there twice: write it once.", c)
			break
		}
	}
}

// checkDNS wants what one kind needs, and nothing that is about the other.
func (l *loader) checkDNS(b *dnsBlock) {
	if b.Kind.bad {
		return
	}
	kind := b.Kind.Value
	if b.Timeout.good() && b.Timeout.Value > time.Hour {
		l.errorf(b.Timeout.At, "Unsuitable value for timeout", "An authority does not wait that long for its proof: write an hour at most.")
	}
	need := func(name, example string, written bool) {
		if !written {
			l.errorf(b.At, "Missing "+name, "dns %q cannot do without: write %s.", kind, example)
		}
	}
	reject := func(name string, written bool, at hcl.Range) {
		if written {
			l.errorf(at, "Unsuitable "+name, "dns %q has no use for it: leave it out.", kind)
		}
	}
	if kind == "exec" {
		need("command", `command = ["/usr/local/lib/sallyport/dns-hook"]`, b.Command.written)
		reject("server", b.Server.written, b.Server.At)
		reject("key_name", b.KeyName.written, b.KeyName.At)
		reject("key_algorithm", b.KeyAlgorithm.written, b.KeyAlgorithm.At)
		reject("key_secret", b.KeySecret.written, b.At)
		reject("zone", b.Zone.written, b.Zone.At)
		reject("ttl", b.TTL.written, b.TTL.At)
		if b.Command.good() {
			warning, err := l.exec(b).Check()
			if err != nil {
				l.errorf(b.Command.At, "Unsuitable value for command", "%s", sentence(err))
			}
			if warning != "" {
				l.warnf(b.Command.At, "Others can change the program", "%s.", warning)
			}
		}
		return
	}
	need("server", `server = "192.0.2.53:53"`, b.Server.written)
	need("key_name", `key_name = "sallyport"`, b.KeyName.written)
	need("key_secret", `key_secret = file("/etc/sallyport/tsig.key")`, b.KeySecret.written)
	reject("command", b.Command.written, b.Command.At)
	if b.Server.good() && strings.HasPrefix(string(b.Server.Value), "unix:") {
		l.errorf(b.Server.At, "Unsuitable value for server", "A name server is asked by UDP and TCP: write server = \"192.0.2.53:53\".")
		return
	}
	if b.TTL.good() && (b.TTL.Value%time.Second != 0 || b.TTL.Value > 24*time.Hour) {
		l.errorf(b.TTL.At, "Unsuitable value for ttl", "Write whole seconds, and no more than a day.")
	}
	if b.Server.good() && b.KeyName.good() && b.KeySecret.good() && !b.KeyAlgorithm.bad && !b.Zone.bad {
		if err := l.rfc2136(b).Check(); err != nil {
			at := b.At // and not key_secret, which would be shown
			switch name, _, _ := strings.Cut(err.Error(), " "); name {
			case "key_name":
				at = b.KeyName.At
			case "zone":
				at = b.Zone.At
			}
			l.errorf(at, "The updates cannot be made", "%s", sentence(err))
		}
	}
}

// dns returns who publishes for an authority, or nil.
func (l *loader) dns(b *acmeBlock) acme.DNS {
	switch {
	case b.DNS == nil:
		return nil
	case b.DNS.Kind.Value == "exec":
		return l.exec(b.DNS)
	}
	return l.rfc2136(b.DNS)
}

func (l *loader) rfc2136(b *dnsBlock) *acme.RFC2136 {
	return &acme.RFC2136{
		Server:       string(b.Server.Value),
		KeyName:      b.KeyName.Value,
		KeyAlgorithm: b.KeyAlgorithm.Value,
		KeySecret:    strings.TrimSpace(b.KeySecret.Value),
		Zone:         b.Zone.Value,
		TTL:          b.TTL.Value,
		Timeout:      b.Timeout.Value,
		Resolver:     l.resolver(),
	}
}

func (l *loader) exec(b *dnsBlock) *acme.Exec {
	return &acme.Exec{Command: b.Command.Value, Timeout: b.Timeout.Value, Resolver: l.resolver()}
}

func (l *loader) resolver() string {
	if l.root.Resolver == nil {
		return ""
	}
	return string(l.root.Resolver.Address.Value)
}

// checkIssued refuses names that the authority of a certificate cannot certify
// in the way it is used.
func (l *loader) checkIssued(b *certificateBlock) {
	a := b.ACME.Value
	if !b.ACME.good() || !b.Names.good() || a.Manager.bad || a.Challenges.bad {
		return
	}
	dns01 := a.advanced() && slices.Contains(a.challenges(), "dns-01")
	others := slices.ContainsFunc(a.challenges(), func(c string) bool { return c != "dns-01" })
	for _, name := range b.Names.Value {
		_, err := netip.ParseAddr(name)
		address := err == nil
		switch {
		case strings.HasPrefix(name, "*.") && !dns01:
			l.errorf(b.Names.At, "The authority cannot certify a wildcard", "Authorities have a wildcard such as %s proved by dns-01 only: write manager = \"advanced\" and a block dns { … } into acme %q, or write the names themselves.", name, a.label())
		case strings.HasPrefix(name, "*."):
		case address && !a.advanced():
			l.errorf(b.Names.At, "The authority cannot certify an address", "manager = \"autocert\" knows host names only: write manager = \"advanced\" into acme %q for %s.", a.label(), name)
		case address && !others:
			l.errorf(b.Names.At, "The authority cannot certify an address", "dns-01 proves host names, and no address such as %s (RFC 8738, 7): add tls-alpn-01 or http-01 to the challenges of acme %q.", name, a.label())
		}
	}
}
