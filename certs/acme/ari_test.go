package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The example of RFC 9773, 4.1.
func TestCertificateID(t *testing.T) {
	leaf := &x509.Certificate{
		AuthorityKeyId: []byte{0x69, 0x88, 0x5B, 0x6B, 0x87, 0x46, 0x40, 0x41, 0xE1, 0xB3, 0x7B, 0x84, 0x7B, 0xA0, 0xAE, 0x2C, 0xDE, 0x01, 0xC8, 0xD4},
		SerialNumber:   big.NewInt(0x87654321),
	}
	id, err := certificateID(leaf)
	if want := "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"; id != want || err != nil {
		t.Errorf("%s, %v; want %s", id, err, want)
	}
	if _, err := certificateID(&x509.Certificate{SerialNumber: big.NewInt(1)}); err == nil {
		t.Error("a certificate without the identifier of its authority's key has an ID")
	}
}

// An authority is a transport that answers for one.
type authority func(req *http.Request) (*http.Response, error)

func (a authority) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path == "/dir" {
		return reply(200, `{"renewalInfo":"https://ca.example.org/ari"}`, ""), nil
	}
	return a(req)
}

func reply(status int, body, again string) *http.Response {
	h := http.Header{}
	if again != "" {
		h.Set("Retry-After", again)
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func suggestion(start, end time.Time, more string) string {
	return fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}%s}`, start.Format(time.RFC3339), end.Format(time.RFC3339), more)
}

var ariLeaf = &x509.Certificate{AuthorityKeyId: []byte{1, 2}, SerialNumber: big.NewInt(9)}

// followed plays an authority for a time and returns when it was asked, what
// was told and what was logged.
func followed(t *testing.T, long time.Duration, transport http.RoundTripper) (asked []time.Duration, told []time.Time, log string) {
	t.Helper()
	var out strings.Builder
	begin := time.Now()
	a := &adviser{
		client: &http.Client{Transport: authority(func(req *http.Request) (*http.Response, error) {
			if req.Method != "GET" || req.URL.String() != "https://ca.example.org/ari/AQI.CQ" {
				t.Errorf("asked for %s %s", req.Method, req.URL)
			}
			asked = append(asked, time.Since(begin))
			return transport.RoundTrip(req)
		})},
		directory: "https://ca.example.org/dir",
		log:       slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	a.follow(ctx, ariLeaf, func(at time.Time) { told = append(told, at) })
	return asked, told, out.String()
}

type answers func(n int) (*http.Response, error)

// RoundTrip counts from 0.
func (a answers) counted() http.RoundTripper {
	n := -1
	return authorityFunc(func(*http.Request) (*http.Response, error) { n++; return a(n) })
}

type authorityFunc func(req *http.Request) (*http.Response, error)

func (f authorityFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Retry-After says when to ask again, within a minute and a day; a time is
// chosen in the window, and again only when the window is another.
func TestAdvice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		start, end := now.Add(48*time.Hour), now.Add(72*time.Hour)
		asked, told, log := followed(t, 40*time.Hour, answers(func(n int) (*http.Response, error) {
			switch n {
			case 0:
				return reply(200, suggestion(start, end, ""), "3600"), nil
			case 1:
				return reply(200, suggestion(start, end, ""), "1"), nil
			case 2:
				return reply(200, suggestion(start, end, ""), time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat)), nil
			}
			return reply(200, suggestion(now.Add(-time.Hour), now.Add(-time.Minute), `,"explanationURL":"https://ca.example.org/why?x=\u001b"`), "99999999"), nil
		}).counted())
		want := []time.Duration{0, time.Hour, time.Hour + time.Minute, 3*time.Hour + time.Minute, 27*time.Hour + time.Minute}
		if !slices.EqualFunc(asked, want, func(a, b time.Duration) bool { return (a - b).Abs() <= time.Second }) {
			t.Errorf("asked at %s", asked)
		}
		if len(told) != 2 {
			t.Fatalf("told %s", told)
		}
		if told[0].Before(start) || told[0].After(end) {
			t.Errorf("%s is not between %s and %s", told[0], start, end)
		}
		if told[1].After(now) {
			t.Errorf("%s is not in the past", told[1])
		}
		if strings.Count(log, "suggests") != 2 || strings.Contains(log, "explanation=") {
			t.Errorf("logged:\n%s", log)
		}
	})
}

// The page that explains is told to the operator, and nothing that is no page.
func TestExplanation(t *testing.T) {
	for url, told := range map[string]int{"https://ca.example.org/why": 1, "javascript:alert(1)": 0, "why": 0, "https://ca.example.org/" + strings.Repeat("a", 600): 0} {
		synctest.Test(t, func(t *testing.T) {
			now := time.Now()
			_, _, log := followed(t, time.Hour, answers(func(int) (*http.Response, error) {
				return reply(200, suggestion(now, now.Add(time.Minute), fmt.Sprintf(`,"explanationURL":%q`, url)), ""), nil
			}).counted())
			if strings.Count(log, "explanation=") != told {
				t.Errorf("%s: logged:\n%s", url, log)
			}
		})
	}
}

// Choosing is uniform over the window, ends included by nobody.
func TestChoose(t *testing.T) {
	now := time.Now()
	w := window{Start: now, End: now.Add(100 * time.Hour)}
	var halves [2]int
	for range 1000 {
		at := w.choose()
		if at.Before(w.Start) || !at.Before(w.End) {
			t.Fatalf("%s is outside", at)
		}
		halves[int(at.Sub(now)/(50*time.Hour))]++
	}
	if min(halves[0], halves[1]) < 400 {
		t.Errorf("not uniform: %v", halves)
	}
}

// W-15: An authority that is busy is asked again soon, and ever later; one that can't
// be asked, or that answers nonsense, after six hours. What it said before no
// longer counts.
func TestAdviceFails(t *testing.T) {
	type answer struct {
		what  string
		reply func() (*http.Response, error)
		busy  bool
	}
	now := time.Now()
	for _, a := range []answer{
		{"500", func() (*http.Response, error) { return reply(500, "", "1"), nil }, true},
		{"429", func() (*http.Response, error) { return reply(429, "", ""), nil }, true},
		{"timeout", func() (*http.Response, error) { return nil, context.DeadlineExceeded }, true},
		{"cut", func() (*http.Response, error) {
			r := reply(200, "", "")
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"sugg`), broken{}))
			return r, nil
		}, true},
		{"refused", func() (*http.Response, error) { return nil, errors.New("connection refused") }, false},
		{"404", func() (*http.Response, error) { return reply(404, "", ""), nil }, false},
		{"garbage", func() (*http.Response, error) { return reply(200, "<html>", ""), nil }, false},
		{"empty", func() (*http.Response, error) { return reply(200, "{}", ""), nil }, false},
		{"backwards", func() (*http.Response, error) {
			return reply(200, suggestion(now.Add(time.Hour), now, ""), ""), nil
		}, false},
		{"point", func() (*http.Response, error) { return reply(200, suggestion(now, now, ""), ""), nil }, false},
		{"endless", func() (*http.Response, error) {
			r := reply(200, "", "")
			r.Body = io.NopCloser(endless{})
			return r, nil
		}, false},
	} {
		t.Run(a.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				asked, told, log := followed(t, 10*time.Hour, answers(func(n int) (*http.Response, error) {
					if n == 0 {
						return reply(200, suggestion(now.Add(time.Hour), now.Add(2*time.Hour), ""), "60"), nil
					}
					return a.reply()
				}).counted())
				if len(told) != 2 || told[0].IsZero() || !told[1].IsZero() {
					t.Errorf("told %s", told)
				}
				want := []time.Duration{0, time.Minute, 6*time.Hour + time.Minute}
				if a.busy {
					want = nil
					at := time.Duration(0)
					for _, step := range []int{0, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256} {
						at += time.Duration(step) * time.Minute
						want = append(want, at)
					}
				}
				if !slices.Equal(asked, want) {
					t.Errorf("asked at %s, want %s", asked, want)
				}
				if a.busy == strings.Contains(log, "level=WARN") {
					t.Errorf("logged:\n%s", log)
				}
			})
		})
	}
}

// An authority without renewal information is asked once.
func TestNoAdvice(t *testing.T) {
	asked := 0
	a := &adviser{directory: "https://ca.example.org/dir", log: slog.New(slog.DiscardHandler), client: &http.Client{
		Transport: authorityFunc(func(*http.Request) (*http.Response, error) {
			asked++
			return reply(200, `{"newOrder":"https://ca.example.org/order"}`, ""), nil
		}),
	}}
	a.follow(t.Context(), ariLeaf, func(time.Time) { t.Error("advice from nowhere") })
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
