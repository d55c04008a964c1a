package imap

import (
	"strings"
	"testing"
)

// M-05: a legal tag is kept, and only a legal tag.
func TestTags(t *testing.T) {
	for tag, legal := range map[string]bool{
		"a": true, "A0001": true, "1.23": true, "a]b": true, "$x-y_z": true,
		strings.Repeat("t", 128): true,
		"":                       false,
		"*":                      false,
		"+":                      false,
		"a+b":                    false,
		"a(":                     false,
		"a)":                     false,
		"a%":                     false,
		"a{":                     false,
		`a"`:                     false,
		`a\`:                     false,
		"a\x00":                  false,
		"a\x7f":                  false,
		"\xe4":                   false,
		strings.Repeat("t", 129): false,
	} {
		if got := parseCommand([]byte(tag + " NOOP")); (got.tag == tag && tag != "") != legal {
			t.Errorf("%q: got tag %q, legal is %v", tag, got.tag, legal)
		}
	}
}

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]commandLine{
		"a noop":             {tag: "a", name: "NOOP"},
		"a LOGIN u p":        {tag: "a", name: "LOGIN", args: []byte(" u p")},
		"a NOOP ":            {tag: "a", name: "NOOP", args: []byte(" ")},
		"a  NOOP":            {tag: "a", args: []byte(" NOOP")}, // two parsers may differ
		"a":                  {tag: "a"},
		"a ":                 {tag: "a"},
		" a NOOP":            {},
		"a START\x80TLS":     {tag: "a"},
		"a STARTTLS\t":       {tag: "a"},
		`a "LOGIN" u p`:      {tag: "a", args: []byte(" u p")},
		"a {5+}":             {tag: "a"},
		"a X-FOO.1 [bar]":    {tag: "a", name: "X-FOO.1", args: []byte(" [bar]")},
		"a AUTHENTICATE NTL": {tag: "a", name: "AUTHENTICATE", args: []byte(" NTL")},
	} {
		got := parseCommand([]byte(line))
		if got.tag != want.tag || got.name != want.name || string(got.args) != string(want.args) {
			t.Errorf("%q: got %q %q %q, want %q %q %q", line, got.tag, got.name, got.args, want.tag, want.name, want.args)
		}
	}
}

// M-04: what is a literal, what only looks like one, and what cannot be
// counted.
func TestLiteral(t *testing.T) {
	for line, want := range map[string]struct {
		size int64
		kind literalKind
	}{
		"a LOGIN {5}":                       {5, synchronizing},
		"a LOGIN {5+}":                      {5, nonSynchronous},
		"a LOGIN {0}":                       {0, synchronizing},
		"* X ~{12}":                         {12, synchronizing},
		"a LOGIN {9223372036854775807}":     {1<<63 - 1, synchronizing},
		"a LOGIN {9223372036854775808}":     {0, badLiteral},
		"a LOGIN {999999999999999999999+}":  {0, badLiteral},
		"a LOGIN {-1}":                      {0, badLiteral},
		"a LOGIN {+1}":                      {0, badLiteral},
		"a LOGIN {1++}":                     {0, badLiteral},
		"a LOGIN {5-}":                      {0, badLiteral},
		"a LOGIN {+}":                       {0, badLiteral},
		"a LOGIN {}":                        {0, noLiteral},
		"a LOGIN {5}x":                      {0, noLiteral},
		"a LOGIN {five}":                    {0, noLiteral},
		`a LOGIN "{5}"`:                     {0, noLiteral},
		"}":                                 {0, noLiteral},
		"":                                  {0, noLiteral},
		"a LOGIN {5 }":                      {0, noLiteral},
		"a X {{5}":                          {5, synchronizing},
		"a X {" + strings.Repeat("0", 9000): {0, noLiteral},
	} {
		size, kind := literal([]byte(line))
		if size != want.size || kind != want.kind {
			t.Errorf("%q: got %d, %d, want %d, %d", line, size, kind, want.size, want.kind)
		}
	}
}
