//go:build !linux

package main

import (
	"net"
	"os"
)

// peerUID trusts the mode of the socket, 0600, where the system cannot be asked
// in a way that is the same everywhere.
func peerUID(*net.UnixConn) (int, error) { return os.Geteuid(), nil }
