package sieve

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/upgraders"
)

// RFC 5804, 4 (V-04): a line is a command, announces a literal, or is neither;
// what two parsers may read differently is never a command.
func TestParseCommand(t *testing.T) {
	t.Parallel()
	none := command{size: noLiteral}
	bad := command{size: badLiteral}
	for line, want := range map[string]command{
		`noop`:                             {verb: "NOOP", size: noLiteral},
		`NOOP ""`:                          {verb: "NOOP", args: []string{""}, size: noLiteral},
		`HAVESPACE "a \"b\" \\" 99`:        {verb: "HAVESPACE", args: []string{`a "b" \`, "99"}, size: noLiteral},
		`AUTHENTICATE PLAIN`:               {verb: "AUTHENTICATE", args: []string{"PLAIN"}, size: noLiteral},
		`AUTHENTICATE "PLAIN" {0+}`:        {verb: "AUTHENTICATE", args: []string{"PLAIN"}, size: 0},
		`NOOP {12+}`:                       {verb: "NOOP", size: 12},
		`NOOP "{12+}"`:                     {verb: "NOOP", args: []string{"{12+}"}, size: noLiteral},
		`XCLIENT ADDR=2001:db8::1 PORT=25`: {verb: "XCLIENT", args: []string{"ADDR=2001:db8::1", "PORT=25"}, size: noLiteral},
		``:                                 none,
		` NOOP`:                            none,
		`NOOP `:                            none,
		`NOOP  "a"`:                        none,
		`NOOP "a" `:                        none,
		"NOOP\t\"a\"":                      none,
		`NOOP "a"b`:                        none,
		`NOOP "a`:                          none,
		`NOOP "a\n"`:                       none,
		`NOOP (a)`:                         none,
		`NOOP {a}`:                         none,
		"STARTTLS\x80":                     none,
		`NOOP {12}`:                        bad,
		`NOOP {}`:                          bad,
		`NOOP {+}`:                         bad,
		`NOOP {-1+}`:                       bad,
		`NOOP {1++}`:                       bad,
		`NOOP {99999999999999999999+}`:     bad,
		`NOOP {{5+}`:                       bad,
		`NOOP a{5+}`:                       bad,
		`NOOP "a{5+}`:                      bad,
		`NOOP "a"{5+}`:                     bad,
		`NOOP  {5+}`:                       bad,
		`{5+}`:                             bad,
	} {
		if got := parseCommand([]byte(line)); !cmp.Equal(got, want, cmp.AllowUnexported(command{})) {
			t.Errorf("%q: %s", line, cmp.Diff(want, got, cmp.AllowUnexported(command{})))
		}
	}
}

// V-03: the tokens of a response, with its literals.
func TestScan(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		tokens  string
		missing int64
	}{
		"OK\r\n":                                   {"OK", noLiteral},
		"no (TAG \"a\") \"b {3}\"\r\n":             {"no ( TAG 'a' ) 'b {3}'", noLiteral},
		"\"SASL\" \"\"\r\n":                        {"'SASL' ''", noLiteral},
		"OK (TAG {3}\r\n":                          {"", 3},
		"OK (TAG {3+}\r\nab":                       {"", 1},
		"OK (TAG {3}\r\na\nb":                      {"", 0},
		"OK (TAG {3}\r\na\nb) {2}\r\nhi\r\n":       {"OK ( TAG 'a\nb' ) 'hi'", noLiteral},
		"{0}\r\n\r\n":                              {"''", noLiteral},
		"{0}\r\n":                                  {"", 0},
		"OK {a}\r\n":                               {"", badLiteral},
		"OK {99999999999999999999}\r\n":            {"", badLiteral},
		"OK \"never ends\r\n":                      {"OK '\"never ends'", noLiteral},
		"\"SIEVE\" \"\\\"STARTTLS\\\" \\\\\"\r\n":  {`'SIEVE' '"STARTTLS" \'`, noLiteral},
		"\"SIEVE\" {10}\r\n\"STARTTLS\"\r\n":       {`'SIEVE' '"STARTTLS"'`, noLiteral},
		"{8}\r\nSTARTTLS {2}\r\n\r\n":              {"", 0},
		"{8}\r\nSTARTTLS {2}\r\n\r\n\r\n":          {"'STARTTLS' '\r\n'", noLiteral},
		"BYE (REFERRAL \"sieve://a\") \"Moved\"\n": {"BYE ( REFERRAL 'sieve://a' ) 'Moved'", noLiteral},
	} {
		tokens, missing := scan([]byte(line))
		var got []string
		for _, tok := range tokens {
			if tok.str {
				tok.text = "'" + tok.text + "'"
			}
			got = append(got, tok.text)
		}
		if s := strings.Join(got, " "); s != want.tokens || missing != want.missing {
			t.Errorf("%q: got %q, missing %d; want %q, missing %d", line, s, missing, want.tokens, want.missing)
		}
	}
}

// G-13, G-32: what a session before TLS is told is what the backend offers one
// in TLS, less what is false; each capability once (RFC 5804, 1.7), and a value
// that is too long as a literal (RFC 5804, 4).
func TestAnnounce(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxQuoted+1)
	learned := upgraders.Capabilities{"Implementation a \"b\" \\", "SIEVE " + long, "sasl PLAIN SCRAM-SHA-1-PLUS external",
		"SASL LOGIN", "StartTLS", "XCLIENT", "NOTIFY", "VERSION 1.0"}
	const begin = "\"Implementation\" \"a \\\"b\\\" \\\\\"\r\n\"SIEVE\" {1025}\r\n"
	for _, c := range []struct {
		o    offer
		want string
	}{
		{offer{refuseAuth: true, starttls: true}, "\"sasl\" \"\"\r\n\"NOTIFY\"\r\n\"VERSION\" \"1.0\"\r\n\"STARTTLS\"\r\n"},
		{offer{starttls: true}, "\"sasl\" \"PLAIN\"\r\n\"NOTIFY\"\r\n\"VERSION\" \"1.0\"\r\n\"STARTTLS\"\r\n"},
		{offer{binding: true}, "\"sasl\" \"PLAIN SCRAM-SHA-1-PLUS\"\r\n\"NOTIFY\"\r\n\"VERSION\" \"1.0\"\r\n"},
		{offer{refuseAuth: true}, "\"NOTIFY\"\r\n\"VERSION\" \"1.0\"\r\n"},
	} {
		if got, want := c.o.announce(learned), begin+long+"\r\n"+c.want; got != want {
			t.Errorf("%+v: %s", c.o, cmp.Diff(want, got))
		}
	}
}
