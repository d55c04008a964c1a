package xmpp

import (
	"testing"

	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func TestServerDialogues(t *testing.T) { upgradertest.Run(t, ServerProtocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

func FuzzServerUpgrade(f *testing.F) { upgradertest.Fuzz(f, ServerProtocol()) }
