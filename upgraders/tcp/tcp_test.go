package tcp

import (
	"errors"
	"testing"

	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// TestOpaque: nothing stands between client and backend, and without TLS
// nothing is said at all.
func TestOpaque(t *testing.T) {
	p := Protocol()
	u, err := p.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := u.Implicit(nil)
	if h.Accept != nil || h.Join != nil || h.Converse != nil || h.Serve != nil || h.Unavailable != nil {
		t.Errorf("the stream is touched: %+v", h)
	}
	if h, err := u.Upgrade(t.Context(), nil); h.Verdict != upgraders.HangUp || h.Reply != nil || !errors.Is(err, upgraders.ErrSyntax) {
		t.Errorf("a dialogue comes to %+v, %v", h, err)
	}
	if p.Keyword != "" || p.ServerFirst || p.IdleTimeout != 0 || p.ALPN != nil || p.Ports != nil || p.Implicit != nil {
		t.Errorf("assumes something of the protocol inside: %+v", p)
	}
}
