//go:build !unix

package main

import "os"

// takesIPv4 is about sockets of systemd's, which are not here.
func takesIPv4(*os.File) bool { return false }
