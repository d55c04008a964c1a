package postgres

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// The table of cancel keys is bounded, and forgets the oldest key first.
func TestKeyTable(t *testing.T) {
	keys := newKeyTable()
	keys.note("first", "a")
	keys.note("first", "b") // a server that began anew may give a key again
	if server, ok := keys.of("first"); !ok || server != "b" {
		t.Errorf("of(first) = %q, %v", server, ok)
	}
	for i := range maxKeys {
		keys.note(fmt.Sprint(i), "c")
	}
	if _, ok := keys.of("first"); ok {
		t.Error("the oldest key is kept")
	}
	if _, ok := keys.of("0"); !ok {
		t.Error("a key is forgotten too early")
	}
	if len(keys.server) != maxKeys || len(keys.ring) != maxKeys {
		t.Errorf("%d keys, %d in the ring", len(keys.server), len(keys.ring))
	}
}
