package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	maxBody        = 1 << 20          // of a response
	maxBodies      = 16 << 20         // of all responses in an order, where they are kept
	requestTimeout = 30 * time.Second // of a request with its whole response
)

var (
	errTooLong   = errors.New("it answers with more than 1 MiB: is directory the URL of an ACME directory?")
	errTooMuch   = errors.New("it answers one order with more than 16 MiB in all: ask the authority, or take another one")
	errTooSlow   = errors.New("it takes longer than " + requestTimeout.String() + " to answer: try another time, or another authority")
	errNoJSON    = errors.New("is directory the URL of an ACME directory?")
	errElsewhere = errors.New("it redirects")
	errCleartext = errors.New("without https everybody on the way could order certificates: correct the directory's URL (RFC 8555, 6.1)")
)

// newClient returns the client that both engines talk to an authority with.
func newClient(cfg Config) *http.Client {
	t := &transport{directory: cfg.Directory, next: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		TLSClientConfig:        &tls.Config{RootCAs: cfg.CAs, MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        10 * time.Second,
		ForceAttemptHTTP2:      true,
	}}
	t.timeout.Store(int64(requestTimeout))
	return &http.Client{Transport: t}
}

// A transport bounds what an authority can do to us: the whole response is
// there, in time and of a size, when RoundTrip returns, and it is what an ACME
// server says.
type transport struct {
	directory string
	timeout   atomic.Int64 // of a request, a time.Duration
	next      http.RoundTripper
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.roundTrip(req)
	if err != nil && req.Context().Err() == nil {
		err = unreachable(err)
	}
	return res, err
}

func (t *transport) roundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, errCleartext
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), time.Duration(t.timeout.Load()), errTooSlow)
	defer cancel()
	res, err := t.next.RoundTrip(req.WithContext(ctx))
	if err == nil {
		var body []byte
		body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1))
		res.Body.Close()
		res.Body = io.NopCloser(bytes.NewReader(body))
		if err == nil {
			err = t.check(req, res, body)
		}
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errTooSlow) {
			err = errTooSlow
		}
		return nil, err
	}
	return res, nil
}

// check refuses what no ACME server answers.
func (t *transport) check(req *http.Request, res *http.Response, body []byte) error {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case len(body) > maxBody:
		return errTooLong
	case res.StatusCode >= 300 && res.StatusCode < 400 && res.Header.Get("Location") != "":
		// A request is signed for one URL (RFC 8555, 6.4).
		return fmt.Errorf("%w to %s: if that is where it has gone, write it as directory", errElsewhere, clean(res.Header.Get("Location")))
	case res.StatusCode >= 300 || len(body) == 0 && req.URL.String() != t.directory:
		return nil
	case kind == "application/pem-certificate-chain":
		return nil
	case !json.Valid(body):
		return fmt.Errorf("it answers with what is not JSON (%s): %w", clean(res.Header.Get("Content-Type")), errNoJSON)
	case req.URL.String() != t.directory:
		return nil
	}
	// RFC 8555, 7.1.1.
	var directory struct{ NewNonce, NewAccount, NewOrder string }
	if json.Unmarshal(body, &directory) != nil || directory.NewNonce == "" || directory.NewAccount == "" || directory.NewOrder == "" {
		return fmt.Errorf("it names no newNonce, newAccount and newOrder: %w", errNoJSON)
	}
	return nil
}
