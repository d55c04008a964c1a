package smtp

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// S-07: the one end of a message, and what others take for one.
func TestMessageEnds(t *testing.T) {
	for _, test := range []struct {
		name, data string
		end        int // 0: none
		odd, bare  bool
	}{
		{"at once", ".\r\n", 3, false, false},
		{"usual", "hi\r\n.\r\nQUIT\r\n", 7, false, false},
		{"stuffed dot", "..\r\n.\r\n", 7, false, false},
		{"dot in a line", "a.\r\n.\r\n", 7, false, false},
		{"dot and space", ". \r\n.\r\n", 7, false, false},
		{"none", "hi\r\n.\r", 0, false, false},
		{"LF.LF", "hi\n.\n", 0, true, true},
		{"LF.CRLF", "hi\n.\r\n", 0, true, true},
		{"CRLF.LF", "hi\r\n.\n", 0, true, true},
		{"CR.CR", "hi\r.\r", 0, true, true},
		{"CRLF.CR and text", "hi\r\n.\rx", 0, true, true},
		{"CRLF.CRCR", "hi\r\n.\r\r", 0, true, true},
		{"CRLF.CR.", "hi\r\n.\r.", 0, true, true},
		{"CRLF NUL.CRLF", "hi\r\n\x00.\r\n", 0, true, false},
		{"CRLF.NUL CRLF", "hi\r\n.\x00\r\n", 0, true, false},
		{"CR NUL.CR", "hi\r\x00.\r", 0, true, true},
		{"CRLF.CR NUL", "hi\r\n.\r\x00", 0, true, true},
		{"CRCRLF.CRLF", "hi\r\r\n.\r\n", 8, false, true},
		{"LF.CRLF.CRLF", "hi\n.\r\n.\r\n", 9, true, true},
		{"bare LF", "a\nb\r\n.\r\n", 8, false, true},
		{"bare CR", "a\rb\r\n.\r\n", 8, false, true},
		{"bare LF and stuffed dot", "a\n..\n.\r\nx", 0, true, true},
		{"NUL in a line", "a\x00b\r\n.\r\n", 8, false, false},
	} {
		for rule, refused := range map[newlineRule]bool{anyNewline: false, noOddEnd: test.odd, noBareCRLF: test.odd || test.bare} {
			for cut := range len(test.data) {
				var m message
				n, end, clean := m.scan([]byte(test.data[:cut]), rule)
				if clean && !end {
					var more int
					more, end, clean = m.scan([]byte(test.data[cut:]), rule)
					n += more
				}
				if clean == refused {
					t.Errorf("%s, rule %d, cut at %d: clean %v", test.name, rule, cut, clean)
				}
				if clean && (end != (test.end > 0) || end && n != test.end) {
					t.Errorf("%s, rule %d, cut at %d: end %v at %d, want %d", test.name, rule, cut, end, n, test.end)
				}
			}
		}
	}
}

// Whatever the bytes and the cuts, a message ends behind the first CRLF.CRLF,
// and a rule is broken where a reader of the whole would say so.
func TestMessageRandom(t *testing.T) {
	const alphabet = "\r\n\r\n..x\x00"
	r := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		data := make([]byte, 1+r.IntN(40))
		for i := range data {
			data[i] = alphabet[r.IntN(len(alphabet))]
		}
		want := bytes.Index(append([]byte("\r\n"), data...), []byte("\r\n.\r\n"))
		if want >= 0 {
			want += len(".\r\n")
		}
		got := scanPieces(r, data, anyNewline)
		if got != want {
			t.Fatalf("%q ends at %d, want %d", data, got, want)
		}
		body := data
		if want >= 0 {
			body = data[:want]
		}
		if clean := scanPieces(r, body, noBareCRLF) != broken; clean == hasBare(body) && !hasOddNUL(body) {
			t.Fatalf("%q with strict newlines: clean %v", body, clean)
		}
	}
}

const broken = -2

// scanPieces returns where a message ends, -1 if it does not, or broken.
func scanPieces(r *rand.Rand, data []byte, rule newlineRule) int {
	var m message
	at := 0
	for at < len(data) {
		n := 1 + r.IntN(len(data)-at)
		size, end, clean := m.scan(data[at:at+n], rule)
		switch {
		case !clean:
			return broken
		case end:
			return at + size
		}
		at += n
	}
	return -1
}

// hasBare reports a bare LF, or a bare CR that is not the last byte.
func hasBare(p []byte) bool {
	for i, b := range p {
		if b == '\n' && (i == 0 || p[i-1] != '\r') || b == '\r' && i+1 < len(p) && p[i+1] != '\n' {
			return true
		}
	}
	return false
}

// hasOddNUL reports a lone dot with a NUL beside it, which is refused too.
func hasOddNUL(p []byte) bool { return bytes.IndexByte(p, 0) >= 0 && bytes.IndexByte(p, '.') >= 0 }

func TestChunkSize(t *testing.T) {
	for argument, want := range map[string]struct {
		size int64
		last bool
		err  error
	}{
		"0":                    {0, false, nil},
		"0 LAST":               {0, true, nil},
		"1024 last":            {1024, true, nil},
		"00077":                {77, false, nil},
		"2147483647":           {2147483647, false, nil},
		"2147483648":           {0, false, errChunkSize},
		"99999999999999999999": {0, false, errChunkSize},
		"4294967297 LAST":      {0, false, errChunkSize},
		"":                     {0, false, errChunkSyntax},
		"-1":                   {0, false, errChunkSyntax},
		"+1":                   {0, false, errChunkSyntax},
		"0x10":                 {0, false, errChunkSyntax},
		"1 LASTING":            {0, false, errChunkSyntax},
		"1  LAST":              {0, false, errChunkSyntax},
		"1\tLAST":              {0, false, errChunkSyntax},
	} {
		size, last, err := chunkSize(argument)
		if size != want.size || last != want.last || err != want.err {
			t.Errorf("chunkSize(%q) = %d, %v, %v; want %d, %v, %v", argument, size, last, err, want.size, want.last, want.err)
		}
	}
}
