package ftp

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }
