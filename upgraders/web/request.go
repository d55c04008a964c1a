package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/sallyport/sallyport/internal/onehttp"
	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// maxHead bounds a request: an authority's is a tenth of it, and a browser's
// with all its fields fits.
const maxHead = 8 << 10

// Requests that are well made, and not served here.
var (
	errMethod  = errors.New("a method that pages do not have")
	errUnknown = errors.New("an unknown method")
	errBody    = errors.New("a request with a body")
)

// refusals has the status that answers what was wrong with a request (RFC 9110,
// 15). Who left gets none.
var refusals = upgraders.Answers[int]{
	{errMethod, http.StatusMethodNotAllowed},
	{errUnknown, http.StatusNotImplemented},
	{errBody, http.StatusRequestEntityTooLarge},
	{wire.ErrTooLong, http.StatusRequestHeaderFieldsTooLarge},
	{wire.ErrBudget, http.StatusRequestHeaderFieldsTooLarge},
	{wire.ErrBareNewline, http.StatusBadRequest},
	{wire.ErrNUL, http.StatusBadRequest},
	{wire.ErrClientHello, http.StatusBadRequest},
	{upgraders.ErrSyntax, http.StatusBadRequest},
	{wire.ErrShutdown, http.StatusServiceUnavailable},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout},
}

// readRequest takes the head of a request, and so all of it. The request is
// never nil, and has its method where its head was well made.
func readRequest(c *wire.Conn) (*http.Request, error) {
	r := &http.Request{Header: http.Header{}, Body: http.NoBody}
	h, err := onehttp.ReadHead(c)
	if err != nil {
		return r, err
	}
	c.Discard(h.Size())
	r.Method, r.Host, r.RequestURI = h.Method, strings.ToLower(h.Host), h.Target
	r.Proto, r.ProtoMajor, r.ProtoMinor = fmt.Sprintf("HTTP/1.%d", h.Minor), 1, h.Minor
	r.Close = h.Minor == 0 || h.Has("connection", "close")
	switch h.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch:
		return r, errMethod
	default:
		return r, errUnknown
	}
	if h.Length != 0 {
		return r, errBody
	}
	if r.URL, err = url.ParseRequestURI(h.Target); err != nil {
		return r, upgraders.ErrSyntax
	}
	return r, nil
}
