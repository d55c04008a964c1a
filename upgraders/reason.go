package upgraders

import (
	"bytes"
	"errors"
	"os"

	"github.com/sallyport/sallyport/internal/wire"
)

// Answers says what is told of which error. The first match wins, so what is
// more exact stands first.
type Answers[T any] []struct {
	Err    error
	Answer T
}

// To returns what is told of an error: the zero value when nothing is.
func (answers Answers[T]) To(err error) (answer T) {
	for _, a := range answers {
		if errors.Is(err, a.Err) {
			return a.Answer
		}
	}
	return answer
}

// reasons has the closed set of values of the label `reason`.
var reasons = Answers[string]{
	{ErrInjection, "injection"},
	{ErrProxy, "proxy"},
	{ErrHTTP, "http"},
	{wire.ErrClientHello, "client_hello"},
	{wire.ErrTooLong, "too_long"},
	{wire.ErrBareNewline, "bare_newline"},
	{wire.ErrNUL, "nul"},
	{wire.ErrBudget, "budget"},
	{ErrEarlyTalk, "early_talk"},
	{ErrLiteral, "literal"},
	{ErrNeedsTLS, "tls_required"},
	{ErrTooMany, "errors"},
	{ErrSyntax, "syntax"},
	{ErrLimit, "limit"},
	{wire.ErrShutdown, "shutdown"},
	{os.ErrDeadlineExceeded, "timeout"},
}

// Reason names why a dialogue was rejected, or returns "" for an error that is
// no rejection: the client left.
func Reason(err error) string { return reasons.To(err) }

// Reasons lists every value Reason can return, for metrics that start at zero.
func Reasons() []string {
	names := make([]string, len(reasons))
	for i, r := range reasons {
		names[i] = r.Answer
	}
	return names
}

// httpVerbs are RFC 9110's methods, PATCH (RFC 5789) and HTTP/2's preface.
var httpVerbs = []string{"GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH ", "PRI * "}

// IsHTTP reports whether a line begins as an HTTP request does. A protocol
// that isn't HTTP hangs up on it, before and inside TLS, and repeats no byte
// of it: a browser may have been led here (ALPACA, 2021).
func IsHTTP(line []byte) bool {
	for _, verb := range httpVerbs {
		if len(line) >= len(verb) && bytes.EqualFold(line[:len(verb)], []byte(verb)) {
			// NNTP has a HEAD, too (RFC 3977, 6.2.2). What follows is a number
			// or a <message-id>, which HEAD has in no HTTP.
			rest := bytes.TrimLeft(line[len(verb):], " \t")
			return verb != "HEAD " || len(rest) == 0 || rest[0] != '<' && (rest[0] < '0' || rest[0] > '9')
		}
	}
	return false
}
