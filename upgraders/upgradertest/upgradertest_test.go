package upgradertest

import (
	"errors"
	"fmt"
	"github.com/sallyport/sallyport/gateway"
	"net"
	"strings"
	"testing"
	"time"
)

// TestRun: a correct protocol passes all there is. This is the positive
// control of every negative one below.
func TestRun(t *testing.T) { Run(t, toyProtocol("")) }

func FuzzToy(f *testing.F) { Fuzz(f, toyProtocol("")) }

// TestFlaws: each flaw is found by each of the checkers that can see it, and
// for the right reason.
func TestFlaws(t *testing.T) {
	const refusal = `"no, bye\r\n"`
	tests := []struct {
		flaw     flaw
		script   string // that fails, if one can
		says     string
		contract string // what Check says
		fuzz     string // what Fuzz says, if a seed alone brings it up
	}{
		{replays, "03-injection", refusal, "the verdict depends on how the bytes are cut", "the verdict depends"},
		{drops, "03-injection", refusal, "the verdict depends on how the bytes are cut", "the verdict depends"},
		{trails, "01-starttls", "tls", "a byte in the clear", ""},
		{twice, "", "", "each answer goes out in one Write", ""},
		{leaks, "01-starttls", `got  "NAME attacker`, "what was said before TLS reaches the backend", "what was said before TLS"},
		{mute, "03-injection", refusal, "StartTLS with a go-ahead and without Injected", "without Injected"},
		{deaf, "12-no-certificate", `got  "go`, "StartTLS without a certificate", "StartTLS without a certificate"},
		{opens, "05-cleartext-refused", `want "no`, "Cleartext on a listener that refuses it", "Cleartext on a listener"},
		{swallows, "06-too-long", "want error too_long", "the error that ended the dialogue is returned", "the error that ended the dialogue"},
		{greedy, "", "", "", "makes the gateway allocate"},
		{panics, "01-starttls", `want "welcome`, "Upgrade panics", "Upgrade panics"},
		{talks, "10-backend-down", `want "nobody is there\r\n"`, "Unavailable tells the backend's address", ""},
	}
	scripts, err := load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(string(tt.flaw), func(t *testing.T) {
			p := toyProtocol(tt.flaw)
			if tt.script != "" {
				found := false
				for _, s := range scripts {
					if s.name == tt.script {
						found = true
						hasty := *s
						hasty.patience = time.Second
						wantError(t, "the script", tt.says, perform(&hasty, p, ca))
					}
				}
				if !found {
					t.Errorf("no script %s", tt.script)
				}
			}
			if tt.contract != "" {
				wantError(t, "the contract check", tt.contract, violations(scripts, p)...)
			}
			if tt.fuzz != "" {
				wantError(t, "the fuzz target", tt.fuzz, fuzzSeeds(scripts, tt.flaw)...)
			}
		})
	}
}

// fuzzSeeds judges the first seeds in each setting, with another name in them.
func fuzzSeeds(scripts []*script, f flaw) []error {
	z, err := newFuzzer(scripts, toyProtocol(f))
	if err != nil {
		return []error{err}
	}
	var errs []error
	for i, seed := range z.seeds[:4] {
		for setting := range z.settings {
			said := []byte(strings.ReplaceAll(string(seed), "attacker", "else"))
			if err := z.judge(said, uint64(i), byte(setting)); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

func wantError(t *testing.T, who, want string, errs ...error) {
	t.Helper()
	err := errors.Join(errs...)
	switch {
	case err == nil:
		t.Errorf("%s finds nothing", who)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s finds something else than %q:\n%v", who, want, err)
	}
}

// TestSplits: a guard that looks into the buffer alone is found by cutting,
// since the rest comes later.
func TestSplits(t *testing.T) {
	scripts, err := load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		if s.is("injection") {
			begin := time.Now()
			if err := splits(s, toyProtocol(""), ca); err != nil {
				t.Error(err)
			}
			t.Logf("splits took %v", time.Since(begin))
			wantError(t, "splits", "want the refusal", splits(s, toyProtocol(drops), ca))
		}
	}
}

// TestStandardSet: what is missing is named, and so is what is there in name
// only.
func TestStandardSet(t *testing.T) {
	scripts, err := load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if errs := missing(scripts, toyProtocol("")); len(errs) > 0 {
		t.Error(errs)
	}
	if errs := missing(nil, toyProtocol("")); len(errs) != len(standard) {
		t.Errorf("%d of %d missing scripts are named: %v", len(errs), len(standard), errs)
	}
	implicit := toyProtocol("")
	implicit.Keyword = ""
	if errs := missing(nil, implicit); len(errs) != 4 {
		t.Errorf("a protocol with implicit TLS only needs 4 scripts, not %v", errs)
	}
	pages := toyProtocol("")
	pages.Keyword, pages.Pages = "", true
	if errs := missing(nil, pages); len(errs) != len(standardPages) {
		t.Errorf("%d of %d missing scripts of pages are named: %v", len(errs), len(standardPages), errs)
	}
	for _, want := range standardPages {
		for _, mode := range []gateway.Mode{gateway.StartTLS, gateway.Implicit} {
			if want.ok(&script{mode: mode, steps: []step{{op: "C>"}}}) {
				t.Errorf("%s of pages: passes without showing %s", want.suffix, want.shows)
			}
		}
	}
	for _, s := range scripts {
		for _, want := range standard {
			if !s.is(want.suffix) {
				continue
			}
			hollow := *s
			hollow.steps, hollow.backendDown = []step{{op: "C>"}}, false
			if want.ok(&hollow) {
				t.Errorf("%s: passes without showing %s", s.name, want.shows)
			}
		}
	}
}

// TestPlayFails: each expectation of a script can fail, and says where and
// what.
func TestPlayFails(t *testing.T) {
	greet := "# A test.\nC< hello from gw.example.org\n"
	tests := map[string]struct{ script, want string }{
		"other words":         {"# A test.\nC< hullo\n", `x.txt:2: C< hullo`},
		"no such line":        {"# A test.\nC<~ hullo .*\n", `want a line that matches ^(?:hullo .*)$`},
		"part of a line":      {"# A test.\nC<~ hello\n", `want a line that matches`},
		"more than expected":  {"# A test.\nC<- hello\n", `the client: want no more`},
		"more on the backend": {"# A test.\ncleartext allow\nC< hello from gw.example.org\nC> LOGIN me\nB> hello\n", `the backend: want no more`},
		"no end":              {greet + "policy dialogue_timeout=1s\n", "the setting comes first"},
		"not the end":         {greet + "C> HELLO\nclosed\n", `want the end of the stream`},
		"handshake":           {greet + "C> HELLO\ntls\n", `first record does not look like a TLS handshake`},
		"no failed handshake": {greet + "C> UPGRADE\nC< go\ntls fails\n", `a session in TLS`},
		"backend unexpected":  {greet + "C> UPGRADE\nC< go\ntls\n", `want no connection to the backend`},
		"backend contacted":   {"# A test.\ncleartext allow\nC< hello from gw.example.org\nC> LOGIN me\nB> hello\nB none\n", `want no connection to the backend`},
		"other words at B":    {"# A test.\ncleartext allow\nC< hello from gw.example.org\nC> LOGIN me\nB> hello\nB< LOGIN you\n", `got  "LOGIN me`},
		"other error":         {greet + "C> QUIT\nC< bye\nclosed\nerror http\n", `want error http`},
		"unexpected error":    {greet + "C> GET / HTTP/1.1\nclosed\n", `want a dialogue that is not rejected`},
		"ignored ALPN":        {"# A test.\nalpn nope\nC< hello from gw.example.org\nC> UPGRADE\nC< go\ntls\n", `no application protocol`},
		"clean end":           {"# A test.\nmode implicit\ntls\nB> hello\nC< hello\nB eof\naborted\n", `want a stream that breaks off`},
		"broken end":          {"# A test.\nmode implicit\ntls\nB> hello\nC< hello\nB abort\nclosed\n", `want the end of the stream`},
		"clean end at B":      {"# A test.\nmode implicit\ntls\nB> hello\nC< hello\neof\nB aborted\n", `want a stream that breaks off`},
		"clear after go":      {greet + "C> HELLO x\nC> UPGRADE\nC<- welcome\\r\\n\nC<- g\ntls\n", `cleartext where TLS is due`},
	}
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := parse("01-x.txt", tt.script)
			if err == nil {
				s.patience = time.Second
				err = play(s, toyProtocol(""), ca, false)
			}
			wantError(t, "the runner", tt.want, err)
		})
	}
}

// TestEnds: FIN and RST are told apart where they have to be.
func TestEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ends := func(reset, byFIN bool, see func(*peer) error) error {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		other, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if reset {
			other.(*net.TCPConn).SetLinger(0)
		}
		other.Close()
		return see(&peer{raw: c, conn: c, byFIN: byFIN, patience: time.Second, t: &transcript{}})
	}
	for _, tt := range []struct {
		reset, byFIN bool
		see          func(*peer) error
		ok           bool
	}{
		{false, false, (*peer).seeEnd, true},
		{true, false, (*peer).seeEnd, true},
		{false, true, (*peer).seeEnd, true},
		{true, true, (*peer).seeEnd, false},
		{false, false, (*peer).seeAbort, false},
		{true, false, (*peer).seeAbort, true},
	} {
		if err := ends(tt.reset, tt.byFIN, tt.see); (err == nil) != tt.ok {
			t.Errorf("reset %v, by FIN only %v: %v", tt.reset, tt.byFIN, err)
		}
	}
}

// TestParse: what isn't a script is refused, with its line.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"C> A\n":                         "1: a script opens with a comment",
		"# A test.\n":                    "1: nothing happens",
		"# A test.\nmode sideways\n":     "2: neither a setting nor a step",
		"# A test.\nC> \\q\n":            "2: bad escape",
		"# A test.\nC> \\xZZ\n":          "2: bad escape",
		"# A test.\nC> hex 0\n":          "2: encoding/hex",
		"# A test.\nC<+ A\n":             "2: no such step",
		"# A test.\nC<~ (\n":             "2: error parsing regexp",
		"# A test.\nC>+ A\n":             "2: C>+ is glued to the next line",
		"# A test.\nC>+ A\nC< B\n":       "2: C>+ is glued to the next line",
		"# A test.\npolicy nope=1\nC>\n": "2: no such policy",
		"# A test.\nC>\nmode implicit\n": "3: not a step",
	} {
		_, err := parse("01-x.txt", text)
		wantError(t, "parse", want, err)
	}
	_, err := parse("x.txt", "# A test.\nC>\n")
	wantError(t, "parse", "NN-what-it-shows", err)

	s, err := parse("01-x.txt", "# A test.\n\nC> a\\r\\n\\0\\\\\\x41\\(xy*3)\nB>- b\nC< hex 00 ff\nC>\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, st := range s.steps {
		got = append(got, fmt.Sprintf("%s%q", st.op, st.text))
	}
	if want := `C>"a\r\n\x00\\Axyxyxy\r\n" B>"b" C<"\x00\xff" C>"\r\n"`; strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

// TestOptions: an option that isn't there, or isn't of the type, is an error
// with its line.
func TestOptions(t *testing.T) {
	for option, want := range map[string]string{
		"nope=1":  `no option "nope"`,
		"loud=x":  "invalid syntax",
		"wait=3":  "missing unit",
		"motto=y": "",
	} {
		s, err := parse("01-x.txt", "# A test.\noption "+option+"\nC>\n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = s.upgrader(toyProtocol("")); want != "" {
			wantError(t, "option "+option, want, err)
		} else if err != nil {
			t.Error(err)
		}
	}
}
