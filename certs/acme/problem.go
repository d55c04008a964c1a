package acme

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
)

// Why a try brought no certificate. Each error of a try is one of these.
var (
	ErrStore       = errors.New("the store cannot be used")
	ErrUnreachable = errors.New("the authority cannot be asked")
	ErrLimited     = errors.New("the authority wants fewer orders")
	ErrRefused     = errors.New("the authority refuses")
	ErrValidation  = errors.New("the authority could not verify a name")
	ErrDNS         = errors.New("the record of dns-01 cannot be published")
	ErrUnusable    = errors.New("what was issued cannot be served")
)

// result returns the label of an error in metrics.
func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrStore):
		return "store"
	case errors.Is(err, ErrLimited):
		return "limited"
	case errors.Is(err, ErrValidation):
		return "validation"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrDNS):
		return "dns"
	case errors.Is(err, ErrUnusable):
		return "unusable"
	}
	return "unreachable"
}

// Results returns the labels of tries.
func Results() []string {
	return []string{"ok", "store", "limited", "validation", "refused", "dns", "unusable", "unreachable"}
}

// A problem is what an authority says went wrong (RFC 8555, 6.7).
type problem struct {
	Type        string `json:"type"`
	Detail      string `json:"detail"`
	Identifier  ident  `json:"identifier"`
	Subproblems []struct {
		Type       string `json:"type"`
		Detail     string `json:"detail"`
		Identifier ident  `json:"identifier"`
	} `json:"subproblems"`

	status int           // of the response
	after  time.Duration // Retry-After; 0: none
	proof  bool          // of a challenge that the authority tried
	record bool          // which was dns-01
}

type ident struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

const problemType = "urn:ietf:params:acme:error:"

// kind returns the last word of the type.
func (p *problem) kind() string { return strings.TrimPrefix(p.Type, problemType) }

// Unwrap returns which error of a try it is.
func (p *problem) Unwrap() error {
	switch {
	case p.proof:
		return ErrValidation
	case p.kind() == "rateLimited" || p.status == http.StatusTooManyRequests:
		return ErrLimited
	case p.status >= 500:
		return ErrUnreachable
	}
	return ErrRefused
}

// Error says what the authority said, and what to do about it.
func (p *problem) Error() string {
	var out strings.Builder
	fmt.Fprint(&out, p.Unwrap())
	if p.Identifier.Value != "" {
		fmt.Fprintf(&out, " (%s)", clean(p.Identifier.Value))
	}
	detail := p.Detail
	for _, sub := range p.Subproblems {
		detail += fmt.Sprintf("; %s: %s", sub.Identifier.Value, sub.Detail)
	}
	if detail == "" {
		detail = http.StatusText(p.status)
	}
	fmt.Fprintf(&out, ": %s", clean(detail))
	if p.Type != "" {
		fmt.Fprintf(&out, " (%s)", clean(p.kind()))
	}
	if advice := p.advice(); advice != "" {
		fmt.Fprintf(&out, ": %s", advice)
	}
	return out.String()
}

// advice says what to do about the problems that operators meet (RFC 8555,
// 6.7).
func (p *problem) advice() string {
	if p.record {
		return "see that the whole Internet finds the record: the zone must be delegated to the name servers that have it, and DNSSEC, where it is signed, be in order"
	}
	switch p.kind() {
	case "connection", "tls":
		return "see that the name's addresses lead here, port 443 for tls-alpn-01 and port 80 for http-01, and that no firewall is between"
	case "unauthorized", "incorrectResponse":
		if p.proof {
			return "somebody else answers at the name's addresses: let them lead here"
		}
	case "dns":
		return "see that the name has addresses in public DNS"
	case "caa":
		return "let the CAA records of the name allow this authority"
	case "rateLimited":
		return "wait; what is served stays"
	case "rejectedIdentifier", "unsupportedIdentifier":
		return "this authority issues for other names: take the name out, or another authority"
	case "externalAccountRequired":
		return "write external_account with the key that the authority gave you"
	case "invalidContact", "unsupportedContact":
		return "correct email"
	case "userActionRequired":
		return "the terms of service have changed: agree to them where the authority says"
	}
	return ""
}

// readProblem reads the body of a response that is an error.
func readProblem(res *http.Response, body []byte) *problem {
	p := new(problem)
	if json.Unmarshal(body, p) != nil || p.Type == "" && p.Detail == "" {
		*p = problem{Detail: "it answers " + res.Status}
	}
	p.status = res.StatusCode
	p.after = min(askAgain(res.Header), maxRetryAfter)
	return p
}

// maxRetryAfter bounds what a header can do to us.
const maxRetryAfter = 7 * 24 * time.Hour

// maxDetail bounds what an authority can have us log.
const maxDetail = 500

// clean makes what others said fit for a log and a terminal.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + " …"
	}
	return strings.TrimSpace(text)
}

// unreachable makes an error of the network say what to do.
func unreachable(err error) error {
	advice := "see that the directory's URL is right and that no firewall is between"
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
	)
	switch {
	case errors.Is(err, errTooLong), errors.Is(err, errTooMuch), errors.Is(err, errNoJSON), errors.Is(err, errTooSlow), errors.Is(err, errElsewhere), errors.Is(err, errCleartext):
		return fmt.Errorf("%w: %w", ErrUnreachable, err) // they say it
	case errors.As(err, &unknown):
		advice = "name the root of the directory's certificate in ca_file"
	case errors.As(err, &invalid):
		advice = "see that the clock of this machine is right"
	case errors.As(err, &host):
		advice = "correct the host in the directory's URL"
	}
	return fmt.Errorf("%w: %w: %s", ErrUnreachable, heard{err}, advice)
}

// A heard error may hold what others said: the names in the certificate of who
// is on the way, as he likes them.
type heard struct{ error }

func (e heard) Error() string { return clean(e.error.Error()) }
func (e heard) Unwrap() error { return e.error }
