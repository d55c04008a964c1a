package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID returns who is at the other end of a unix socket (unix(7),
// SO_PEERCRED).
func peerUID(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid = -1
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	if cerr != nil {
		err = cerr
	}
	return uid, err
}
