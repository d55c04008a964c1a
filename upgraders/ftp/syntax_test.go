package ftp

import (
	"fmt"
	"testing"
)

// The ports of 227 and 229 are found where servers write them, and nowhere
// else (RFC 1123, 4.1.2.6; RFC 2428, 3).
func TestPorts(t *testing.T) {
	for line, want := range map[string]uint16{
		"227 Entering Passive Mode (10,0,0,1,4,1)":      1025,
		"227 Entering Passive Mode (10,0,0,1,4,1).\r\n": 1025,
		"227 Entering Passive Mode. 10,0,0,1,255,255":   65535,
		"227 =10,0,0,1,4,1":                             1025,
		"227 at 5: 10,0,0,1,4,1":                        1025,
		"227 Entering Passive Mode (10,0,0,1,4)":        0,
		"227 Entering Passive Mode (10,0,0,1,4,256)":    0,
		"227 Entering Passive Mode (10,0,0,1,4,1,1)":    0,
		"227 Entering Passive Mode (10,0,0,1,-4,1)":     0,
		"227 ": 0, "227": 0,
	} {
		if got := passivePort(line); got != want {
			t.Errorf("%q: %d, want %d", line, got, want)
		}
	}
	for line, want := range map[string]uint16{
		"229 Entering Extended Passive Mode (|||6446|)":   6446,
		"229 ok (!!!65535!)\r\n":                          65535,
		"229 ok (|||65536|)":                              0,
		"229 ok (||6446|)":                                0,
		"229 ok (||x|6446|)":                              0,
		"229 ok (|||6446)":                                0,
		"229 ok |||6446|":                                 0,
		"229 ok ()":                                       0,
		"229 ok (||||)":                                   0,
		"229 ok (|||-1|)":                                 0,
		"229 Entering Extended Passive Mode (|||6446|":    0,
		"229 Entering Extended Passive Mode (|1|a|6446|)": 0,
	} {
		if got := extendedPort(line); got != want {
			t.Errorf("%q: %d, want %d", line, got, want)
		}
	}
}

// What the readers of addresses take is what they write, and nothing makes them
// panic.
func FuzzSyntax(f *testing.F) {
	for _, seed := range []string{"PORT 127,0,0,1,4,1", "EPRT |1|127.0.0.1|1025|", "EPRT !2!::1!1025!", "227 (1,2,3,4,5,6)", "229 (|||1025|)", "\xff\xf4\xff\xf2ABOR", "\xff\xff\xff", "211-x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, argument := split(text)
		if at, ok := hostPort(argument); ok {
			if again, ok := hostPort(fmt.Sprintf("%s,%d,%d", comma(at.Addr()), at.Port()>>8, at.Port()&0xff)); !ok || again != at {
				t.Errorf("%q is %s, and then %s", argument, at, again)
			}
		}
		if _, at, ok := extendedHostPort(argument); ok && !at.IsValid() {
			t.Errorf("%q is %s", argument, at)
		}
		passivePort(text)
		extendedPort(text)
		code([]byte(text))
		once := string(plain([]byte(text)))
		if len(once) > len(text) || len(once) > 0 && once[0] >= commands && text[0] < commands && text[0] != iac {
			t.Errorf("%q is made %q", text, once)
		}
		if verb, _ := split(once); isVerb(verb) {
			for i := range len(verb) {
				if verb[i] >= 0x80 {
					t.Errorf("%q is a verb", verb)
				}
			}
		}
	})
}
