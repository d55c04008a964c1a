package mysql

import (
	"testing"

	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// What either side sends first is taken apart without a panic, and what is made
// of it says the same but for what was to be changed.
func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x0a8.0\x00\x01\x00\x00\x0012345678\x00\xff\xf7\x21\x02\x00\xff\x81\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00abcdefghijkl\x00plugin\x00"))
	f.Add([]byte(loginOf(sha256Password, "secret\x00").body()))
	f.Add([]byte(loginOf("auth_gssapi_client", "").body()))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > maxPacket-header {
			return
		}
		p := newPacket(0, body)
		if g, err := parseGreeting(p); err == nil {
			for _, ssl := range []bool{true, false} {
				again, err := parseGreeting(g.offering(ssl))
				if err != nil || again.offers() != ssl || string(again.nonce) != string(g.nonce) {
					t.Errorf("offering(%v): %v, %q", ssl, err, again.packet)
				}
			}
		}
		if len(body) < 2 {
			return
		}
		l, err := parseLogin(body)
		if err != nil || l.old() {
			return
		}
		again, err := parseLogin(l.with(body, askSHA256))
		if err != nil || string(again.proof) != string(askSHA256) || again.name != l.name || again.flags != l.flags {
			t.Errorf("with another proof: %v, %+v; it was %+v", err, again, l)
		}
	})
}
