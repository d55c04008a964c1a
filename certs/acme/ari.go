package acme

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// An adviser asks an authority when it would have a certificate renewed (RFC
// 9773): earlier when it must revoke many, or when others are not busy.
type adviser struct {
	client    *http.Client
	directory string
	log       *slog.Logger
}

// How often an authority is asked (RFC 9773, 4.3).
const (
	leastPoll = time.Minute
	mostPoll  = 24 * time.Hour
	errorPoll = 6 * time.Hour // when it can't be asked
)

var (
	errNoARI     = errors.New("the authority has no renewal information")
	errTemporary = errors.New("the authority is busy")
)

// follow asks about one certificate until ctx ends, and tells when to renew it
// each time that changes; the zero time stands for no advice. It is nobody's
// business to wait for it: an authority that cannot be asked leaves the
// certificate to its ordinary schedule.
func (a *adviser) follow(ctx context.Context, leaf *x509.Certificate, tell func(at time.Time)) {
	var known window // what at was chosen in
	var at time.Time
	failures := 0
	for {
		w, pause, err := a.ask(ctx, leaf)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNoARI):
			return
		case errors.Is(err, errTemporary):
			// RFC 9773, 4.3: exponential backoff.
			pause = min(leastPoll<<min(failures, 10), errorPoll)
			failures++
			a.log.Debug("renewal information cannot be had", "error", err, "again", pause)
		case err != nil:
			pause = errorPoll
			a.log.Warn("renewal information cannot be had, the certificate is renewed in its own time", "error", err, "again", pause)
		default:
			failures = 0
		}
		if err != nil && !at.IsZero() {
			// RFC 9773, 4.2: without an answer the client decides by itself.
			known, at = window{}, time.Time{}
			tell(at)
		}
		if err == nil && !w.equal(known) {
			// Chosen once for each window: who chose again at each look would
			// end up at its beginning.
			known, at = w, w.choose()
			attrs := []any{"start", w.Start.UTC(), "end", w.End.UTC(), "renew", at.UTC()}
			if w.explanation != "" {
				attrs = append(attrs, "explanation", w.explanation)
			}
			a.log.Info("the authority suggests when to renew", attrs...)
			tell(at)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// A window is a time to renew in.
type window struct {
	Start, End  time.Time
	explanation string // a page for people
}

func (w window) equal(o window) bool {
	return w.Start.Equal(o.Start) && w.End.Equal(o.End) && w.explanation == o.explanation
}

// choose returns a time in the window that nobody else will choose.
func (w window) choose() time.Time {
	return w.Start.Add(rand.N(w.End.Sub(w.Start)))
}

// ask returns what the authority says of a certificate, and when to ask again.
func (a *adviser) ask(ctx context.Context, leaf *x509.Certificate) (w window, pause time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var directory struct {
		RenewalInfo string `json:"renewalInfo"`
	}
	if _, err := a.get(ctx, a.directory, &directory); err != nil {
		return w, 0, err
	}
	if directory.RenewalInfo == "" {
		return w, 0, errNoARI
	}
	id, err := certificateID(leaf)
	if err != nil {
		return w, 0, err
	}
	var info struct {
		SuggestedWindow window `json:"suggestedWindow"`
		ExplanationURL  string `json:"explanationURL"`
	}
	again, err := a.get(ctx, strings.TrimSuffix(directory.RenewalInfo, "/")+"/"+id, &info)
	if err != nil {
		return w, 0, err
	}
	w = info.SuggestedWindow
	if !w.Start.Before(w.End) {
		return w, 0, fmt.Errorf("the suggested window ends (%s) before it begins (%s)", w.End.UTC().Format(time.RFC3339), w.Start.UTC().Format(time.RFC3339))
	}
	// A link for people, and nothing that a terminal would obey.
	if u, err := url.Parse(info.ExplanationURL); err == nil && len(info.ExplanationURL) < 512 && (u.Scheme == "https" || u.Scheme == "http") {
		w.explanation = u.String()
	}
	return w, min(max(again, leastPoll), mostPoll), nil
}

// get decodes a small JSON object and returns what Retry-After asks for.
func (a *adviser) get(ctx context.Context, url string, into any) (again time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := a.client.Do(req)
	if err != nil {
		if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
			err = fmt.Errorf("%w: %w", errTemporary, err)
		}
		return 0, err
	}
	defer res.Body.Close()
	again = askAgain(res.Header)
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", req.URL.Redacted(), res.Status)
		if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
			err = fmt.Errorf("%w: %w", errTemporary, err)
		}
		return 0, err
	}
	const most = 64 << 10 // what is longer is cut, and no JSON then
	body, err := io.ReadAll(io.LimitReader(res.Body, most))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errTemporary, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return 0, fmt.Errorf("%s answers with what is not renewal information: %w", req.URL.Redacted(), err)
	}
	return again, nil
}

// askAgain reads the field in both its forms (RFC 9110, 10.2.3); 0 is none.
func askAgain(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// certificateID names a certificate for its authority (RFC 9773, 4.1).
func certificateID(leaf *x509.Certificate) (string, error) {
	if len(leaf.AuthorityKeyId) == 0 {
		return "", errors.New("the certificate does not name its authority's key, without which renewal information cannot be asked for")
	}
	return acme.ARIUniqueIdentifier(leaf)
}
