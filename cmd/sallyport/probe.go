package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/all"
)

// probeTimeout bounds a probe in all.
const probeTimeout = 20 * time.Second

func probeCommand() *cobra.Command {
	var (
		opts   probeOptions
		caFile string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "probe [PROTO://]HOST[:PORT]",
		Short: "Look at a server as its clients do: is there TLS, and is it to be trusted?",
		Long: `Probe connects to a server as a client would. It asks for TLS in the protocol's
own words, or begins with it on a port of implicit TLS, and shows what it got:
TLS version, cipher and group, the certificate, its names and the days it has
left, and whether a client would trust it. Where TLS is not offered it looks
whether somebody on the way has taken the offer out: some firewalls overwrite
it with X.

PROTO is one of 'sallyport protocols', with an s behind it for implicit TLS
(smtps, imaps, pop3s), or tls for anything that begins with TLS. Without PROTO
the well-known port says it, and without PORT the protocol.

Exit codes: 0 TLS is there and trusted, 1 it is not, 2 the command line is
wrong.`,
		Example: `  sallyport probe mail.example.org:587
  sallyport probe imaps://mail.example.org
  sallyport probe smtp://127.0.0.1:2525 --servername mail.example.org --cacert ca.pem

  # days until the certificate expires
  sallyport probe mail.example.org:25 --json | jq '.chain[0].days_left'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("name one server, as in sallyport probe mail.example.org:587")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := parseProbeTarget(args[0], all.Protocols())
			if err != nil {
				return err
			}
			if opts.roots, err = readRoots(caFile); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
			defer cancel()
			r := target.probe(ctx, opts)
			if asJSON {
				err = printJSON(cmd, r)
			} else {
				err = r.write(cmd.OutOrStdout())
			}
			if err == nil && !r.Trusted {
				err = errFailed
			}
			return err
		},
	}
	cmd.Flags().StringVar(&caFile, "cacert", "", "PEM `FILE` of the authorities to trust, instead of the system's")
	cmd.Flags().StringVar(&opts.serverName, "servername", "", "`NAME` to ask for and to verify, instead of HOST")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for scripts")
	// The only error is an unknown flag.
	_ = cmd.MarkFlagFilename("cacert", "pem", "crt")
	cmd.ValidArgsFunction = completeProbe
	return cmd
}

// completeProbe completes PROTO://, and no files.
func completeProbe(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var schemes []string
	for _, p := range all.Protocols() {
		schemes = append(schemes, p.Name+"://")
		if p.Keyword != "" && len(p.Implicit) > 0 {
			schemes = append(schemes, p.Name+"s://")
		}
	}
	return schemes, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return roots, nil
}

type probeOptions struct {
	roots      *x509.CertPool // nil: the system's
	serverName string         // "": the host
}

// A probeTarget is a server and how TLS begins there.
type probeTarget struct {
	protocol *upgraders.Protocol
	implicit bool
	host     string
	port     uint16
}

// parseProbeTarget reads [PROTO://]HOST[:PORT].
func parseProbeTarget(arg string, protocols []*upgraders.Protocol) (t probeTarget, err error) {
	scheme, rest, ok := strings.Cut(arg, "://")
	if !ok {
		scheme, rest = "", arg
	}
	rest = strings.TrimSuffix(rest, "/")
	host, port, err := net.SplitHostPort(rest)
	if err != nil { // most likely no port
		host, port = strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]"), ""
		if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
			return t, usagef("%q is no HOST:PORT", rest)
		}
	}
	t.host = host
	if host == "" {
		return t, usagef("%q names no host", arg)
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return t, usagef("%q is no port", port)
		}
		t.port = uint16(n)
	}
	if scheme != "" {
		err = t.bySchemeOf(strings.ToLower(scheme), protocols)
	} else {
		err = t.byPort(protocols)
	}
	if err == nil && !t.implicit && t.protocol.Request == nil {
		err = usagef("nothing here can ask %s for TLS", t.protocol.Name)
	}
	return t, err
}

// bySchemeOf takes protocol and mode from PROTO, and a port where none is said.
func (t *probeTarget) bySchemeOf(scheme string, protocols []*upgraders.Protocol) error {
	if scheme == "tls" {
		scheme = "tcp"
	}
	var names []string
	for _, p := range protocols {
		names = append(names, p.Name)
		switch {
		case p.Name == scheme:
			t.implicit = p.Keyword == "" || slices.Contains(p.Implicit, t.port)
		case p.Name+"s" == scheme && p.Keyword != "":
			t.implicit = true
		default:
			continue
		}
		t.protocol = p
		usual := p.Ports
		if t.implicit {
			usual = p.Implicit
		}
		if t.port == 0 && len(usual) == 0 {
			return usagef("%s has no port of its own: write %s://HOST:PORT", scheme, scheme)
		}
		if t.port == 0 {
			t.port = usual[0]
		}
		return nil
	}
	return usagef("unknown protocol %q: write one of %s, or tls", scheme, strings.Join(names, ", "))
}

// byPort takes protocol and mode from the port.
func (t *probeTarget) byPort(protocols []*upgraders.Protocol) error {
	if t.port == 0 {
		return usagef("say which port or protocol, as in %s:587 or imaps://%s", t.host, t.host)
	}
	for _, p := range protocols {
		starttls, implicit := slices.Contains(p.Ports, t.port), slices.Contains(p.Implicit, t.port)
		if starttls || implicit {
			t.protocol, t.implicit = p, implicit
			return nil
		}
	}
	return usagef("no protocol is known by port %d: say which, as in smtp://%s, or tls:// for TLS from the first byte", t.port, t.address())
}

func (t probeTarget) address() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// A probeResult is what a client found.
type probeResult struct {
	Protocol string             `json:"protocol"`
	Address  string             `json:"address"`
	Asked    string             `json:"asked_with,omitempty"` // empty: implicit TLS
	Offered  bool               `json:"tls_offered"`
	Stripped string             `json:"stripped,omitempty"` // what stands where the offer was
	Version  string             `json:"tls_version,omitempty"`
	Cipher   string             `json:"cipher,omitempty"`
	Group    string             `json:"group,omitempty"`
	Name     string             `json:"verified_for"`
	Chain    []probeCertificate `json:"chain"`
	Trusted  bool               `json:"trusted"`
	Problem  string             `json:"problem,omitempty"` // why it is not trusted, or there is no TLS
}

type probeCertificate struct {
	Subject  string    `json:"subject"`
	Issuer   string    `json:"issuer"`
	Names    []string  `json:"names"`
	Key      string    `json:"key"`
	NotAfter time.Time `json:"not_after"`
	DaysLeft int       `json:"days_left"`
	SHA256   string    `json:"sha256"`
}

// probe plays the client.
func (t probeTarget) probe(ctx context.Context, opts probeOptions) *probeResult {
	r := &probeResult{Protocol: t.protocol.Name, Address: t.address(), Name: opts.serverName, Chain: []probeCertificate{}}
	if r.Name == "" {
		r.Name = t.host
	}
	if !t.implicit {
		r.Asked = t.protocol.Keyword
	}
	state, err := t.shake(ctx, r.Name)
	switch {
	case errors.Is(err, upgraders.ErrNotOffered):
		r.Problem = err.Error()
		if r.Stripped = t.mangled(ctx); r.Stripped != "" {
			r.Problem = fmt.Sprintf("somebody on the way has overwritten the offer of TLS with %s: a firewall that inspects the protocol must stop that (Cisco: no fixup, inspect esmtp with allow-tls)", r.Stripped)
		}
		return r
	case err != nil:
		r.Problem = err.Error()
		return r
	}
	r.Offered = true
	r.Version = tls.VersionName(state.Version)
	r.Cipher = tls.CipherSuiteName(state.CipherSuite)
	if state.CurveID != 0 {
		r.Group = state.CurveID.String()
	}
	for _, c := range state.PeerCertificates {
		r.Chain = append(r.Chain, certificateFacts(c))
	}
	if err = verify(state.PeerCertificates, r.Name, opts.roots); err == nil && state.Version < tls.VersionTLS12 {
		err = fmt.Errorf("%s is out of date (RFC 8996), and clients refuse it: the server must be given 1.2 or 1.3", r.Version)
	}
	if err != nil {
		r.Problem = err.Error()
	}
	r.Trusted = err == nil
	return r
}

// shake asks for TLS where that is due and shakes hands, whatever certificate
// there is.
func (t probeTarget) shake(ctx context.Context, name string) (*tls.ConnectionState, error) {
	raw, err := dialProbe(ctx, t.address())
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn := raw
	if !t.implicit {
		if conn, err = t.protocol.AskTLS(ctx, conn, name); err != nil {
			return nil, fmt.Errorf("ask for TLS: %w", err)
		}
	}
	config := &tls.Config{
		ServerName: name,
		MinVersion: tls.VersionTLS10, // to tell of it
		// What is wrong with a certificate is part of the result.
		InsecureSkipVerify: true,
	}
	if _, err := netip.ParseAddr(name); err == nil {
		config.ServerName = "" // RFC 6066, 3: addresses are not asked for
	}
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) && t.implicit {
			return nil, errors.New("the server does not begin with TLS; does it want to be asked for it (smtp:// instead of smtps://)?")
		}
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	state := client.ConnectionState()
	client.Close()
	return &state, nil
}

// dialProbe connects; the deadline of ctx holds for all that follows.
func dialProbe(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if deadline, ok := ctx.Deadline(); err == nil && ok {
		conn.SetDeadline(deadline)
	}
	return conn, err
}

// mangled looks into what a server offers without TLS for something that is no
// capability: Xs, of the length of the word that was there.
func (t probeTarget) mangled(ctx context.Context) string {
	if t.protocol.Probe == nil {
		return ""
	}
	conn, err := dialProbe(ctx, t.address())
	if err != nil {
		return ""
	}
	defer conn.Close()
	offered, err := t.protocol.AskOffer(ctx, conn, "[127.0.0.1]")
	if err != nil {
		return ""
	}
	for _, line := range offered {
		for _, word := range strings.Fields(line) {
			if isMangled(word) {
				return word
			}
		}
	}
	return ""
}

// isMangled reports whether a word is one that firewalls leave: XXXXXXXA where
// STARTTLS was (Cisco), or Xs alone.
func isMangled(word string) bool {
	xs := strings.TrimLeft(word, "Xx")
	return len(word)-len(xs) >= 4 && len(xs) <= 1
}

// verify says whether a client that trusts roots would go on, and if not, why
// not and what to do.
func verify(chain []*x509.Certificate, name string, roots *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("the server has shown no certificate")
	}
	leaf := chain[0]
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates})
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &hostname):
		return fmt.Errorf("the certificate is not for %s, but for %s", name, orDash(strings.Join(certificateNames(leaf), ", ")))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().After(invalid.Cert.NotAfter):
		return fmt.Errorf("the certificate of %s expired on %s: renew it", subjectName(invalid.Cert), invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of %s is not valid before %s: is the clock right?", subjectName(invalid.Cert), invalid.Cert.NotBefore.UTC().Format(time.DateTime+" MST"))
	case errors.As(err, &unknown) && string(leaf.RawIssuer) == string(leaf.RawSubject):
		return errors.New("the certificate is self-signed: no client trusts it that was not told to")
	case errors.As(err, &unknown) && len(chain) == 1:
		return fmt.Errorf("%s has signed it, which is not trusted: if that is an intermediate authority, the server must send its certificate behind its own; if it is yours, name it with --cacert", issuerName(leaf))
	case errors.As(err, &unknown):
		return fmt.Errorf("the chain ends at %s, which is not trusted; if it is yours, name it with --cacert", issuerName(chain[len(chain)-1]))
	}
	return err
}

func certificateFacts(c *x509.Certificate) probeCertificate {
	sum := sha256.Sum256(c.Raw)
	return probeCertificate{
		Subject:  subjectName(c),
		Issuer:   issuerName(c),
		Names:    certificateNames(c),
		Key:      keyKind(c),
		NotAfter: c.NotAfter,
		DaysLeft: int(time.Until(c.NotAfter).Hours() / 24),
		SHA256:   hex.EncodeToString(sum[:]),
	}
}

func certificateNames(c *x509.Certificate) []string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// subjectName is the shortest that tells a certificate from others.
func subjectName(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	if s := c.Subject.String(); s != "" {
		return s
	}
	return orDash(strings.Join(certificateNames(c), ", "))
}

func issuerName(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return orDash(c.Issuer.String())
}

// write prints the result for people.
func (r *probeResult) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, oneLine(fmt.Sprintf(format, args...)))
	}
	asked := "implicit TLS"
	if r.Asked != "" {
		asked = "asked with " + r.Asked
	}
	row("server", "%s, %s, %s", r.Address, r.Protocol, asked)
	if r.Offered {
		row("TLS", "%s, %s, %s", r.Version, r.Cipher, orDash(r.Group))
	} else {
		row("TLS", "none")
	}
	for i, c := range r.Chain {
		name := "certificate"
		if i > 0 {
			name = "signed by"
		}
		row(name, "%s (%s), issued by %s", c.Subject, c.Key, c.Issuer)
		if i == 0 {
			row("names", "%s", orDash(strings.Join(c.Names, ", ")))
		}
		row("expires", "%s, %s left", c.NotAfter.UTC().Format(time.DateOnly), plural(c.DaysLeft, "day"))
	}
	if r.Trusted {
		row("trusted", "yes, for %s", r.Name)
	} else {
		row("trusted", "no: %s", r.Problem)
	}
	return tw.Flush()
}
