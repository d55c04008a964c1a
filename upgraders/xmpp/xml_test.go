package xmpp

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A token ends where XML says that it does, however its bytes come.
func TestToken(t *testing.T) {
	for in, want := range map[string]struct {
		kind kind
		n    int
		err  error
	}{
		"":                          {incomplete, 0, nil},
		"<":                         {incomplete, 0, nil},
		" text<a>":                  {text, 5, nil},
		"<a b='>' c=\"'/>\">x":      {starts, 17, nil},
		"<a/>":                      {empty, 4, nil},
		"</a>":                      {ends, 4, nil},
		"</a":                       {incomplete, 0, nil},
		"<a b='<'>":                 {0, 0, errMalformed},
		"<a <b>":                    {0, 0, errMalformed},
		"<?xml version='1.0'?><":    {prolog, 21, nil},
		"<?xm":                      {incomplete, 0, nil},
		"<?xml":                     {incomplete, 0, nil},
		"<?xmlx":                    {0, 0, errRestricted},
		"<?xsl ?>":                  {0, 0, errRestricted},
		"<!":                        {incomplete, 0, nil},
		"<!-":                       {0, 0, errRestricted},
		"<!DOCTYPE a>":              {0, 0, errRestricted},
		"<![CDATA[":                 {incomplete, 0, nil},
		"<![CDATA[<a>]]]]>>]]>":     {cdata, 17, nil},
		"<![CDATA[]]>":              {cdata, 12, nil},
		"<![CDATA[>]]":              {incomplete, 0, nil},
		"<![IGNORE[":                {0, 0, errRestricted},
		"<\x00?\x00":                {0, 0, errEncoding},
		"<a b='" + "x>" + "'/><c/>": {empty, 11, nil},
	} {
		var whole, bytewise lexer
		k, n, err := whole.token([]byte(in))
		if k != want.kind || n != want.n || !errors.Is(err, want.err) || err != nil && want.err == nil {
			t.Errorf("%q: %d, %d, %v", in, k, n, err)
		}
		for i := range len(in) + 1 {
			bk, bn, berr := bytewise.token([]byte(in[:i]))
			if berr != nil && err == nil || bk != incomplete && bk != text && (bk != k || bn != n) {
				t.Errorf("%q, after %d bytes: %d, %d, %v", in, i, bk, bn, berr)
			}
			if bk != incomplete || berr != nil {
				break
			}
			if i == len(in) && (k != incomplete || err != nil) {
				t.Errorf("%q: byte by byte it does not end", in)
			}
		}
	}
}

// Elements are taken apart as any parser does it, and what no parser takes, or
// XMPP has not, is refused.
func TestParseElement(t *testing.T) {
	e, err := parseElement([]byte("<s:a x = '1&amp;&#x41;&#66;' y:z=\"'\"\n><b/>t<c>u<![CDATA[<v>]]></c ></s:a>"))
	if err != nil {
		t.Fatal(err)
	}
	if e.prefix != "s" || e.local != "a" || e.get("x") != "1&AB" || e.get("z") != "" || len(e.attrs) != 2 || e.text != "t" {
		t.Errorf("%+v", e)
	}
	if c := e.child("c"); c == nil || c.text != "u<v>" || len(e.children) != 2 {
		t.Errorf("children: %+v", e.children)
	}
	for in, want := range map[string]error{
		"<a></b>":                 errMalformed,
		"<a></s:a>":               errMalformed,
		"<a>":                     errMalformed,
		"a<a/>":                   errMalformed,
		"<a/><b/>":                errMalformed,
		"<a b='1'c='2'/>":         errMalformed,
		"<a b/>":                  errMalformed,
		"<a b=1/>":                errMalformed,
		"<a b='1' b='2'/>":        errMalformed,
		"<a b='1/>":               errMalformed,
		"<1a/>":                   errMalformed,
		"<a:b:c/>":                errMalformed,
		"<:a/>":                   errMalformed,
		"</a>":                    errMalformed,
		"<a></a b='1'>":           errMalformed,
		"<a/ >":                   errMalformed,
		"<a></a/>":                errMalformed,
		"<a>]]></a>":              errMalformed,
		"<a><![CDATA[\x00]]></a>": errMalformed,
		"<a>\x01</a>":             errMalformed,
		"<a>\xff</a>":             errMalformed,
		"<a>&#0;</a>":             errMalformed,
		"<a>&#xD800;</a>":         errMalformed,
		"<a>&#x110000;</a>":       errMalformed,
		"<a>&#;</a>":              errMalformed,
		"<a>&amp</a>":             errMalformed,
		"<a>&lol;</a>":            errRestricted,
		"<a b='&xxe;'/>":          errRestricted,
		"<a><!-- --></a>":         errRestricted,
		"<a><?xml v='1'?></a>":    errMalformed,
		strings.Repeat("<a>", 65) + strings.Repeat("</a>", 65): wire.ErrTooLong,
	} {
		if _, err := parseElement([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

// shape writes down which elements stand in which, as encoding/xml sees them.
func shape(raw []byte) (string, error) {
	var b strings.Builder
	for d := xml.NewDecoder(bytes.NewReader(raw)); ; {
		token, err := d.RawToken()
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch e := token.(type) {
		case xml.StartElement:
			b.WriteString("<" + e.Name.Local)
		case xml.EndElement:
			b.WriteString(">")
		}
	}
}

func (n *node) shape() string {
	var b strings.Builder
	b.WriteString("<" + n.local)
	for _, c := range n.children {
		b.WriteString(c.shape())
	}
	return b.String() + ">"
}

// What is taken for an element is one for another parser, too, and has the same
// elements in it: else something could be hidden from the one that the other
// finds. What is taken out of it leaves the rest as it was.
func FuzzElement(f *testing.F) {
	for _, seed := range []string{
		features(mustTLS, mechanisms)[len(serverHeader):], "<a b='>' c=\"/\"><![CDATA[</a>]]><b/ ></a>", "<a>&amp;&#60;b>&#x3c;</a>", "<a:b xmlns:a='x'></a:b>",
		"<f><mechanism>X-PLUS</mechanism><mechanisms><mechanism>EXTERNAL</mechanism></mechanisms><fast/></f>", "<a><b></a></b>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := parseElement(raw)
		if err != nil || bytes.ContainsFunc(raw, func(r rune) bool { return r >= 0x80 }) {
			return // which letters names have is not looked at
		}
		want, err := shape(raw)
		if err != nil || e.shape() != want {
			t.Fatalf("%q: %s, for encoding/xml %s, %v", raw, e.shape(), want, err)
		}
		for _, o := range []offer{{}, {binding: true}, {clear: true}, {clear: true, auth: true}} {
			kept := o.rewrite(raw, e)
			rest, err := parseElement(kept)
			if err != nil {
				t.Fatalf("%q became %q: %v", raw, kept, err)
			}
			o.walk(rest, func(n *node) { t.Errorf("%q kept %q", raw, kept[n.from:n.to]) })
			if again := o.rewrite(kept, rest); !bytes.Equal(again, kept) {
				t.Errorf("%q became %q, then %q", raw, kept, again)
			}
			inserted := insert(kept, withTLS)
			if x, err := parseElement(inserted); err != nil || len(x.children) != len(rest.children)+1 || x.children[0].local != "starttls" {
				t.Errorf("%q became %q: %v", kept, inserted, err)
			}
		}
	})
}

// A host is a name of DNS, in letters of ASCII; no other text is one, so that
// nothing else can be repeated to a client.
func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{
		"example.org":                        "example.org",
		"EXAMPLE.org.":                       "example.org",
		"bücher.example":                     "xn--bcher-kva.example",
		"BÜCHER。example":                     "xn--bcher-kva.example",
		"localhost":                          "localhost",
		"192.0.2.1":                          "192.0.2.1",
		"_xmpp.example.org":                  "_xmpp.example.org",
		"":                                   "",
		".":                                  "",
		"example..org":                       "",
		"u@example.org":                      "",
		"example.org/x":                      "",
		"<script>":                           "",
		"ü<script>":                          "",
		"ü'":                                 "",
		"a b":                                "",
		"[2001:db8::1]":                      "",
		strings.Repeat("a", 64) + ".example": "",
		strings.Repeat("a.", 126) + "aa":     "",
	} {
		if got := hostOf(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// RFC 6120, 4.7.3: the id of a stream is another each time.
func TestStreamID(t *testing.T) {
	v := variant{content: "jabber:client"}
	if a, b := v.header("example.org", ""), v.header("example.org", ""); a == b || len(a) != len(b) {
		t.Errorf("%s, then %s", a, b)
	}
}

// Each mechanism that needs the client's certificate or its channel goes, and no
// other, unless the channel is the same on both legs.
func TestUsable(t *testing.T) {
	for name, want := range map[string][2]bool{ // without and with binding
		"PLAIN":               {true, true},
		" scram-sha-1-plus\n": {false, true},
		"SCRAM-SHA-256":       {true, true},
		"external":            {false, false},
		"HT-SHA-256-NONE":     {true, true},
		"HT-SHA-256-ENDP":     {false, true},
		"HT-SHA-256-EXPR":     {false, true},
		"ANONYMOUS":           {true, true},
	} {
		if got := [2]bool{offer{}.usable(name), offer{binding: true}.usable(name)}; got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// What is told of an error is the condition that RFC 6120 has for it; each that
// ends a dialogue has one, but those that are nobody's to answer.
func TestConditions(t *testing.T) {
	for err, want := range map[error]string{
		errRestricted: "restricted-xml", errEncoding: "unsupported-encoding", errNamespace: "invalid-namespace", errPrefix: "bad-namespace-prefix",
		errFormat: "bad-format", errHost: "host-unknown", errMoved: "host-unknown", errVersion: "unsupported-version", errMalformed: "not-well-formed",
		errTooDeep: "policy-violation", upgraders.ErrNeedsTLS: "policy-violation", wire.ErrBudget: "policy-violation", wire.ErrIdle: "connection-timeout",
		wire.ErrShutdown: "system-shutdown", upgraders.ErrHTTP: "", wire.ErrClientHello: "", wire.ErrStalled: "", broken("x"): "",
	} {
		if got := conditions.To(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
