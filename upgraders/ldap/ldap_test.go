package ldap

import (
	"testing"

	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// Whatever a message says of its own lengths, taking it apart reads no further
// than it goes and allocates no more than it holds.
func FuzzParse(f *testing.F) {
	f.Add([]byte("\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"))
	f.Add([]byte("\x30\x0c\x02\x01\x02\x60\x07\x02\x01\x03\x04\x00\x80\x00"))
	f.Add([]byte("\x30\x84\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parse(raw)
		if err != nil {
			return
		}
		m.bind()
		m.search()
		values(m.contents, "namingContexts")
		if corrected := withoutStartTLS(raw); corrected != nil {
			if again := withoutStartTLS(corrected); again != nil {
				t.Errorf("the offer is still in %x", corrected)
			}
			if len(corrected) > len(raw)+16 {
				t.Errorf("%d bytes became %d", len(raw), len(corrected))
			}
		}
	})
}
