package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/config"
)

// Where a certificate comes from.
const (
	fromFiles      = "files"
	fromOurselves  = "self_signed"
	fromAuthority  = "acme"
	fromNobodyYet  = "stand-in" // self-signed until the authority has issued one
	renewPulse     = 5 * time.Second
	renewPatience  = 3 * time.Hour // for one; an order whose records take an hour each way has two
	writeTolerance = 30 * time.Second
)

// A certStatus is what is known of one certificate.
type certStatus struct {
	Name      string    `json:"name"`                // of the block, or block/host where each host has its own
	From      string    `json:"from"`                // files, self_signed, acme, stand-in
	Names     []string  `json:"names"`               // what it covers, or is to cover
	Listeners []string  `json:"listeners"`           // that choose among it and others
	Authority string    `json:"authority,omitempty"` // label of the acme block
	Issuer    string    `json:"issuer,omitempty"`
	Key       string    `json:"key,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Next      time.Time `json:"next,omitzero"`       // when it is renewed, or tried again
	Failed    int       `json:"failed,omitempty"`    // tries in a row
	Error     string    `json:"error,omitempty"`     // why there is none, or no newer one
	TLSA      []string  `json:"tlsa"`                // records of RFC 6698, 3 1 1
	NextTLSA  []string  `json:"next_tlsa,omitempty"` // those of the next key, where it will be another
}

// certStatuses tells of the certificates of a configuration, those of name only
// where it is not empty.
func certStatuses(cfg *config.Config, name string) []certStatus {
	statuses := []certStatus{} // for JSON
	for _, src := range cfg.Sources {
		if name == "" || isOf(src, name) {
			statuses = append(statuses, statusOf(cfg, src))
		}
	}
	return statuses
}

// isOf reports whether a source is the certificate of a name, or one of its
// block's.
func isOf(src certs.Source, name string) bool {
	block, _, _ := strings.Cut(src.Name(), "/")
	return name == src.Name() || name == block
}

func statusOf(cfg *config.Config, src certs.Source) certStatus {
	s := certStatus{Name: src.Name(), Names: src.Names(), Listeners: []string{}, TLSA: []string{}}
	cert, err := src.Certificate()
	if err != nil {
		s.Error = err.Error()
	}
	var nextKey []byte
	switch src := src.(type) {
	case *certs.FileSource:
		s.From = fromFiles
	case *certs.SelfSignedSource:
		s.From, s.Next = fromOurselves, src.Renewal()
	case *acme.Source:
		st := src.Status()
		s.From, s.Names, s.Authority, s.Next, s.Failed = fromAuthority, st.Names, st.Authority, st.Renew, st.Failed
		nextKey = st.NextKey
		if st.StandIn {
			s.From = fromNobodyYet
		}
		if st.Err != nil {
			s.Error, s.Next = st.Err.Error(), st.Next
		}
	}
	if cert != nil {
		leaf := cert.Leaf
		s.Issuer, s.Key, s.Serial = issuerOf(leaf), keySize(leaf), fmt.Sprintf("%x", leaf.SerialNumber)
		s.NotBefore, s.NotAfter = leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
	}
	var ports []string
	for _, l := range cfg.Gateway.Listeners {
		if set, ok := l.Certificates.(*certs.Set); !ok || !slices.Contains(set.Sources(), src) {
			continue
		}
		s.Listeners = append(s.Listeners, l.Name)
		if l.Protocol.Pages { // browsers and authorities ask for no TLSA
			continue
		}
		for _, address := range l.Addresses {
			if _, port, err := net.SplitHostPort(address); err == nil && port != "0" && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}
	// A certificate that is signed anew by another key, at the next start if
	// not before, is none to publish.
	if cert != nil && (s.From == fromFiles || s.From == fromAuthority) {
		s.TLSA = tlsaRecords(cert.Leaf.DNSNames, ports, cert.Leaf.RawSubjectPublicKeyInfo)
		if nextKey != nil {
			s.NextTLSA = tlsaRecords(cert.Leaf.DNSNames, ports, nextKey)
		}
	}
	return s
}

// issuerOf names the authority for people.
func issuerOf(leaf *x509.Certificate) string {
	name := leaf.Issuer
	switch {
	case name.CommonName != "" && len(name.Organization) > 0 && name.Organization[0] != name.CommonName:
		return name.Organization[0] + ", " + name.CommonName
	case name.CommonName != "":
		return name.CommonName
	case len(name.Organization) > 0:
		return name.Organization[0]
	}
	return name.String()
}

// keySize adds to the kind of a key what makes it strong.
func keySize(leaf *x509.Certificate) string {
	switch key := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return keyKind(leaf) + " " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("%s %d", keyKind(leaf), key.N.BitLen())
	}
	return keyKind(leaf)
}

// tlsaRecords returns what to publish for a key: usage DANE-EE(3), the public
// key (1), as SHA-256 (1), which is what mail servers look for (RFC 7672,
// 3.1.1) and what stays when a renewal keeps the key. A wildcard has no record,
// since the names that it stands for are not known.
func tlsaRecords(names, ports []string, key []byte) []string {
	records := []string{}
	for _, port := range ports {
		for _, name := range names {
			if !strings.HasPrefix(name, "*.") {
				records = append(records, fmt.Sprintf("_%s._tcp.%s. IN TLSA 3 1 1 %x", port, strings.TrimSuffix(name, "."), sha256.Sum256(key)))
			}
		}
	}
	return records
}

// A renewable is a source that can be told to have its certificate issued anew.
type renewable interface {
	certs.Source
	Renew(ctx context.Context) error
}

var _ renewable = (*acme.Source)(nil)

// serveCerts adds what the control socket tells of certificates.
func serveCerts(mux *http.ServeMux, current func() *config.Config) {
	// find answers for itself where there is nothing to be found.
	find := func(w http.ResponseWriter, r *http.Request) (*config.Config, string) {
		cfg, name := current(), r.PathValue("name")
		if cfg == nil {
			answerJSON(w, http.StatusServiceUnavailable, refusal{"the gateway is still starting"})
			return nil, ""
		}
		if name != "" && !slices.ContainsFunc(cfg.Sources, func(src certs.Source) bool { return isOf(src, name) }) {
			answerJSON(w, http.StatusNotFound, refusal{noCertificate(cfg, name).Error()})
			return nil, ""
		}
		return cfg, name
	}
	show := func(w http.ResponseWriter, r *http.Request) {
		if cfg, name := find(w, r); cfg != nil {
			answerJSON(w, http.StatusOK, certStatuses(cfg, name))
		}
	}
	mux.HandleFunc("GET /certs", show)
	mux.HandleFunc("GET /certs/{name}", show)
	mux.HandleFunc("POST /certs/{name}/renew", func(w http.ResponseWriter, r *http.Request) {
		if cfg, name := find(w, r); cfg != nil {
			renewCerts(w, r, cfg, name)
		}
	})
}

func noCertificate(cfg *config.Config, name string) error {
	var names []string
	for _, src := range cfg.Sources {
		names = append(names, src.Name())
	}
	if len(names) == 0 {
		return fmt.Errorf("no certificate %q, and no other either: the configuration has no certificate block", name)
	}
	return fmt.Errorf("no certificate %q, but: %s", name, strings.Join(names, ", "))
}

// A renewEvent is one line of the answer to a request to renew, which comes
// while the work is done: a sign of life, or how it ended.
type renewEvent struct {
	Name    string      `json:"name"`
	Seconds int         `json:"seconds,omitempty"` // that it has taken so far
	Error   string      `json:"error,omitempty"`   // why it failed
	KeyKept bool        `json:"key_kept,omitempty"`
	Done    *certStatus `json:"done,omitempty"` // it has ended, and this is what is there now
}

// renewCerts renews the certificates of a name, one after the other, until the
// client goes away.
func renewCerts(w http.ResponseWriter, r *http.Request, cfg *config.Config, name string) {
	var todo []renewable
	for _, src := range cfg.Sources {
		if !isOf(src, name) {
			continue
		}
		renew, ok := src.(renewable)
		switch src.(type) {
		case *certs.FileSource:
			answerJSON(w, http.StatusConflict, refusal{fmt.Sprintf("certificate %q comes from files: have the program renew it that wrote them; the gateway takes the new one within %.0f seconds", src.Name(), certInterval.Seconds())})
			return
		case *certs.SelfSignedSource:
			answerJSON(w, http.StatusConflict, refusal{fmt.Sprintf("certificate %q is signed by the gateway itself, which renews it by itself and at each start", src.Name())})
			return
		}
		if ok {
			todo = append(todo, renew)
		}
	}
	w.Header().Set("Content-Type", "application/jsonl")
	out, lines := http.NewResponseController(w), json.NewEncoder(w)
	say := func(e renewEvent) {
		out.SetWriteDeadline(time.Now().Add(writeTolerance))
		lines.Encode(e)
		out.Flush()
	}
	for _, src := range todo {
		say(renewOne(r.Context(), src, cfg, say))
	}
}

// renewOne renews a certificate, says now and then that it still does, and
// returns how it ended.
func renewOne(ctx context.Context, src renewable, cfg *config.Config, say func(renewEvent)) renewEvent {
	ctx, cancel := context.WithTimeout(ctx, renewPatience)
	defer cancel()
	before, _ := src.Certificate()
	say(renewEvent{Name: src.Name()})
	begin := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- src.Renew(ctx) }()
	pulse := time.NewTicker(renewPulse)
	defer pulse.Stop()
	for {
		select {
		case <-pulse.C:
			say(renewEvent{Name: src.Name(), Seconds: int(time.Since(begin).Seconds())})
		case err := <-ended:
			status := statusOf(cfg, src)
			e := renewEvent{Name: src.Name(), Seconds: int(time.Since(begin).Seconds()), Done: &status}
			if err != nil {
				e.Error = err.Error()
			} else if now, _ := src.Certificate(); before != nil && now != nil {
				e.KeyKept = string(before.Leaf.RawSubjectPublicKeyInfo) == string(now.Leaf.RawSubjectPublicKeyInfo)
			}
			return e
		}
	}
}
