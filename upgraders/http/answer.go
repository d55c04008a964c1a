package http

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/onehttp"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// answer is an answer of the gateway's before TLS. It is the last one: of what
// the client sends behind its first head, nothing is read.
func answer(status, text string, fields ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\n", status)
	connection := "close"
	for _, f := range fields {
		if strings.HasPrefix(f, "Upgrade:") {
			connection = "Upgrade, close" // RFC 9110, 7.8
		}
		fmt.Fprintf(&b, "%s\r\n", f)
	}
	fmt.Fprintf(&b, "Connection: %s\r\n", connection)
	if text != "" {
		b.WriteString("Content-Type: text/plain\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(text), text)
	return []byte(b.String())
}

var (
	badRequest  = answer("400 Bad Request", "")
	unavailable = answer("503 Service Unavailable", "")
)

// refusals says why the dialogue cannot go on, where that has words.
var refusals = upgraders.Answers[[]byte]{
	{upgraders.ErrSyntax, badRequest},
	{wire.ErrClientHello, badRequest},
	{wire.ErrTooLong, badRequest},
	{wire.ErrBareNewline, badRequest},
	{wire.ErrNUL, badRequest},
	{wire.ErrBudget, badRequest},
	{wire.ErrShutdown, unavailable},
	{wire.ErrStalled, nil},
	{os.ErrDeadlineExceeded, answer("408 Request Timeout", "")},
}

func turnedAway(c *wire.Conn, err error) (upgraders.Handover, error) {
	h := upgraders.Handover{Reply: refusals.To(err)}
	if errors.Is(err, os.ErrDeadlineExceeded) && c.Buffered() == 0 {
		h.Reply = nil // a client that has asked for nothing, a browser's spare connection say
	}
	return h, err
}

// needsTLS turns a request in cleartext away. RFC 9110, 15.5.22: 426 is for
// who may upgrade here; others must come by https.
func (u *upgrader) needsTLS(h *onehttp.Head) []byte {
	text := "TLS is required.\n"
	if h.Method == "HEAD" {
		text = ""
	}
	if u.opts.Upgrade {
		return answer("426 Upgrade Required", text, "Upgrade: TLS/1.2, HTTP/1.1")
	}
	return answer("403 Forbidden", text)
}

// elsewhere is the address of a request in https, or "". It is all that a
// client is ever given back of what it said, so it is made of what an address
// (RFC 3986) consists of and of nothing else.
func elsewhere(h *onehttp.Head) string {
	if h.Method != "GET" && h.Method != "HEAD" || h.Host == "" || h.Target[0] != '/' {
		return ""
	}
	for _, b := range []byte(h.Target) {
		switch {
		case '0' <= b && b <= '9', 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', strings.IndexByte("-._~:/?[]@!$&'()*+,;=%", b) >= 0:
		default:
			return ""
		}
	}
	return "https://" + hostOf(h.Host) + h.Target // without the port of http
}
