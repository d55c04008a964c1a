//go:build !linux

package relay

import "syscall"

// Only Linux is served in production. Elsewhere the relay copies with blocking
// reads, so that the rest can be worked on.

func rawConn(any) syscall.RawConn          { return nil }
func readable(uintptr) bool                { return true }
func readNow(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }
func hasBytes(uintptr) bool                { return false }
func closed(uintptr) bool                  { return false }
