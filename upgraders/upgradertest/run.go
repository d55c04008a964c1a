package upgradertest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// Run plays the scripts of the calling package's testdata through the real
// gateway, demands the standard set of them, and checks the contract.
func Run(t *testing.T, p *upgraders.Protocol) {
	t.Helper()
	scripts, err := scriptsOf(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range missing(scripts, p) {
		t.Error(err)
	}
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if err := perform(s, p, ca); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("contract", func(t *testing.T) { Check(t, p) })
}

// perform plays one script in every way it asks for.
func perform(s *script, p *upgraders.Protocol, ca *authority) error {
	if err := play(s, p, ca, false); err != nil {
		return err
	}
	if !s.glued() {
		return play(s, p, ca, true)
	}
	if s.is("injection") {
		return splits(s, p, ca)
	}
	return nil
}

// A demand is a script that a protocol must have, and what it must show.
type demand struct {
	suffix   string
	implicit bool // demanded of protocols that know implicit TLS only, too
	shows    string
	ok       func(*script) bool
}

// The standard set: without these no protocol is done, and each must show what
// its name says.
var standard = []demand{
	{"starttls", false, "`tls` in mode starttls, and a backend that is joined", func(s *script) bool {
		return s.mode == gateway.StartTLS && s.has("tls") && s.touchesBackend()
	}},
	{"implicit", true, "`tls` in mode implicit, and a backend that is joined", func(s *script) bool {
		return s.mode == gateway.Implicit && s.has("tls") && s.touchesBackend()
	}},
	{"injection", false, "C>+, `closed`, `B none` and `error injection`", func(s *script) bool {
		return s.glued() && s.has("closed") && s.untouched() && s.ends() == "injection"
	}},
	{"cleartext", false, "`cleartext allow`, no `tls`, and a backend that is joined", func(s *script) bool {
		return s.cleartext && !s.has("tls") && s.touchesBackend()
	}},
	{"cleartext-refused", false, "that the backend is not contacted (`B none`)", func(s *script) bool {
		return !s.cleartext && !s.has("tls") && s.untouched()
	}},
	{"too-long", false, "`closed`, and `error too_long` or `error budget`", func(s *script) bool {
		return s.has("closed") && slices.Contains([]string{"too_long", "budget"}, s.ends())
	}},
	{"garbage", true, "`closed` and an `error`", func(s *script) bool { return s.has("closed") && s.ends() != "" }},
	{"http-verb", false, "`closed`, `B none` and `error http`", func(s *script) bool {
		return s.has("closed") && s.untouched() && s.ends() == "http"
	}},
	{"early-eof", true, "`eof` and `closed`", func(s *script) bool { return s.has("eof") && s.has("closed") }},
	{"backend-down", true, "`backend down` and `closed`", func(s *script) bool { return s.backendDown && s.has("closed") }},
}

// The standard set of a protocol whose pages are the gateway's own. Nobody asks
// for TLS in it, so that nothing can be injected, and there is no backend.
var standardPages = []demand{
	{"implicit", true, "an answer inside `tls`, in mode implicit", func(s *script) bool {
		return s.mode == gateway.Implicit && s.has("tls") && s.has("C<")
	}},
	{"cleartext", true, "an answer without `tls`", func(s *script) bool { return !s.has("tls") && s.has("C<") }},
	{"too-long", true, "`closed` and `error too_long`", func(s *script) bool { return s.has("closed") && s.ends() == "too_long" }},
	{"budget", true, "`closed` and `error budget`", func(s *script) bool { return s.has("closed") && s.ends() == "budget" }},
	{"garbage", true, "`closed` and an `error`", func(s *script) bool { return s.has("closed") && s.ends() != "" }},
	{"early-eof", true, "`eof` and `closed`", func(s *script) bool { return s.has("eof") && s.has("closed") }},
	{"slow", true, "`closed` and `error timeout`", func(s *script) bool { return s.has("closed") && s.ends() == "timeout" }},
}

// missing lists what of the standard set isn't there, or is there in name
// only.
func missing(scripts []*script, p *upgraders.Protocol) []error {
	var errs []error
	demands := standard
	if p.Pages {
		demands = standardPages
	}
	for _, want := range demands {
		switch {
		case p.Keyword == "" && !want.implicit,
			want.suffix == "http-verb" && slices.Contains(p.ALPN, "http/1.1"): // it is HTTP
			continue
		}
		found := false
		for _, s := range scripts {
			if !s.is(want.suffix) {
				continue
			}
			found = true
			if !want.ok(s) {
				errs = append(errs, fmt.Errorf("%s: a script of this name shows %s", s.path, want.shows))
			}
		}
		if !found {
			errs = append(errs, fmt.Errorf("testdata: no NN-%s.txt; it shows %s", want.suffix, want.shows))
		}
	}
	return errs
}

// splits plays an injection with its segment cut in two at every byte (G-02):
// whatever the cut, the session ends, the backend isn't contacted, and nothing
// follows a go-ahead but a TLS alert.
func splits(s *script, p *upgraders.Protocol, ca *authority) error {
	in, err := newInjection(s, p)
	if err != nil {
		return err
	}
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		errs    []error
		stagger = make(chan struct{}, 8)
	)
	for at := 1; at < len(in.segment); at++ {
		stagger <- struct{}{}
		wg.Go(func() {
			defer func() { <-stagger }()
			if err := in.play(s, p, ca, at); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("%s: %d more splits fail", s.path, len(errs)-3))
	}
	return errors.Join(errs...)
}

// An injection is what a script's C>+ lines send, and how it may end.
type injection struct {
	first   int // its step
	line    int
	segment []byte
	request int    // so many bytes of the segment ask for TLS
	upgrade []byte // all that the client sees where they alone came first
}

func newInjection(s *script, p *upgraders.Protocol) (*injection, error) {
	in := &injection{first: slices.IndexFunc(s.steps, func(st step) bool { return st.glue })}
	in.line = s.steps[in.first].line
	var before []byte
	for _, st := range s.steps[:in.first] {
		if st.op == "C>" {
			before = append(before, st.text...)
		}
	}
	for _, st := range s.steps[in.first:] {
		if in.segment = append(in.segment, st.text...); !st.glue {
			break
		}
	}
	// Where the request ends is where the protocol itself says so.
	r, err := newRig(s, p)
	if err != nil {
		return nil, err
	}
	for in.request = 1; in.request < len(in.segment); in.request++ {
		o, err := r.upgrade(slices.Concat(before, in.segment[:in.request]))
		if err != nil {
			return nil, err
		}
		if o.h.Verdict == upgraders.StartTLS {
			in.upgrade = append(slices.Concat(o.said...), o.h.Reply...)
			return in, nil
		}
	}
	return nil, fmt.Errorf("%s:%d: what is injected must follow a request for TLS", s.path, in.line)
}

// shown reports whether got is what the script's client sees, from the first
// line to the last.
func (s *script) shown(got []byte) bool {
	for _, st := range s.steps {
		switch {
		case st.op != "C<":
		case st.match != nil && st.bare:
			at := st.match.FindIndex(got)
			if at == nil {
				return false
			}
			got = got[at[1]:]
		case st.match != nil:
			line, rest, _ := bytes.Cut(got, []byte("\r\n"))
			if !st.match.Match(line) {
				return false
			}
			got = rest
		case !bytes.HasPrefix(got, st.text):
			return false
		default:
			got = got[len(st.text):]
		}
	}
	return len(got) == 0
}

// play sends the segment in two pieces.
func (in *injection) play(s *script, p *upgraders.Protocol, ca *authority, at int) error {
	// After the go-ahead a piece that is too short for a TLS record is waited
	// for until the handshake's time is up.
	shorter := *s
	policy := *s.policy
	policy.HandshakeTimeout = 500 * time.Millisecond
	shorter.policy = &policy
	st, err := setUp(&shorter, p, ca, false)
	if err != nil {
		return err
	}
	defer st.tearDown()
	for _, step := range s.steps[:in.first] {
		if step.op == "C>" {
			st.client.send(step.text)
		} else if err := st.perform(step); err != nil {
			return st.fail(step.line, step.raw, err)
		}
	}
	st.client.send(in.segment[:at])
	time.Sleep(gap)
	st.client.send(in.segment[at:])

	what := fmt.Sprintf("split after %q", in.segment[:at])
	if err := st.client.drain(); err != nil {
		return st.fail(in.line, what, err)
	}
	got := st.client.all
	after, upgraded := bytes.CutPrefix(masked(got), masked(in.upgrade))
	upgraded = upgraded && at == in.request && onlyAlerts(after)
	if !s.shown(got) && !upgraded {
		return st.fail(in.line, what, fmt.Errorf("want the refusal that the script shows, or a failed handshake\n\tgot  %q", got))
	}
	st.client.conn.Close()
	if err := st.unheard(); err != nil {
		return st.fail(in.line, what, err)
	}
	ended, err := st.ended()
	if err == nil && ended.reason != "injection" && !(upgraded && ended.outcome == "handshake_failed") {
		err = fmt.Errorf("want reason injection, or a failed handshake\n\tgot  outcome %q, reason %q", ended.outcome, ended.reason)
	}
	if err == nil {
		err = st.noBackend()
	}
	if err == nil {
		err = st.counted(ended)
	}
	if err != nil {
		return st.fail(in.line, what, err)
	}
	return nil
}
