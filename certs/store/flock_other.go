//go:build !unix || solaris || illumos || aix

package store

import (
	"errors"
	"os"
)

func tryLock(*os.File) (held bool, err error) {
	return false, errors.New("files cannot be locked on this system: run the gateway on Linux, macOS or BSD")
}
