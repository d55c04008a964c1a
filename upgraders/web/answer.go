package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxBody bounds a page.
const maxBody = 64 << 10

var errPage = errors.New("a page of more than 64 KiB")

// An answer collects what a page says, so that it goes out in one Write, with a
// length. Nothing in it repeats what the client said, unless the page does.
type answer struct {
	header http.Header
	status int
	body   []byte
	close  bool
}

var _ http.ResponseWriter = (*answer)(nil)

// newAnswer has the fields that every answer has. What is shown is for programs
// and not for browsers: it is of the type it says, loads nothing, stands in no
// frame and is not kept. A page may say otherwise.
func newAnswer() *answer {
	return &answer{header: http.Header{
		"Date":                    {time.Now().UTC().Format(http.TimeFormat)},
		"Content-Type":            {"text/plain; charset=utf-8"},
		"Cache-Control":           {"no-store"},
		"Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"},
		"X-Content-Type-Options":  {"nosniff"},
	}}
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter. The first status counts.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if len(a.body)+len(p) > maxBody {
		return 0, errPage
	}
	a.body = append(a.body, p...)
	return len(p), nil
}

// refuse makes it the answer to what is not served.
func (a *answer) refuse(status int) {
	a.status = status
	if status == http.StatusMethodNotAllowed {
		a.header.Set("Allow", "GET, HEAD") // RFC 9110, 15.5.6
	}
}

// writeTo writes it as the answer to a request of a method.
func (a *answer) writeTo(w io.Writer, method string) error {
	a.WriteHeader(http.StatusOK)
	if len(a.body) == 0 && a.status >= 300 {
		a.body = fmt.Appendf(nil, "%d %s\n", a.status, http.StatusText(a.status))
	}
	a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
	if a.close {
		a.header.Set("Connection", "close")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	a.header.Write(&b)
	b.WriteString("\r\n")
	if method != http.MethodHead {
		b.Write(a.body)
	}
	_, err := w.Write(b.Bytes())
	return err
}
