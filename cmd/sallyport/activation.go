package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/sallyport/sallyport/gateway"
)

// An inherited set of sockets was bound by systemd before this process began
// (sd_listen_fds(3), systemd.socket(5)): clients that come while the gateway
// restarts wait instead of being refused, and no capability is needed for
// ports below 1024.
//
// The descriptors stay open for as long as the process runs, and the gateway
// gets copies: systemd holds each socket open as well, so that none could be
// bound anew once a reload has dropped it.
type inherited struct{ sockets []*inheritedSocket }

type inheritedSocket struct {
	file *os.File
	addr *net.TCPAddr
	both bool // an IPv6 wildcard that takes IPv4 too
	idle bool // no listener wants it, and that was said
}

// inheritSockets returns what systemd has bound; nothing where there is no
// systemd. What the gateway could not serve is closed, and said.
func inheritSockets(log *slog.Logger) *inherited {
	return inheritFiles(activation.Files(true), log)
}

func inheritFiles(files []*os.File, log *slog.Logger) *inherited {
	s := &inherited{}
	for _, f := range files {
		socket, err := inheritSocket(f)
		if err != nil {
			log.Warn("socket of systemd's cannot be used", "name", f.Name(), "error", err)
			f.Close()
			continue
		}
		s.sockets = append(s.sockets, socket)
	}
	return s
}

func inheritSocket(f *os.File) (*inheritedSocket, error) {
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("%w; want ListenStream= of a TCP port, and Accept=no", err)
	}
	defer ln.Close()
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("%s is no TCP socket; want ListenStream= of a TCP port", ln.Addr())
	}
	both := addr.IP.To4() == nil && addr.IP.IsUnspecified() && takesIPv4(f)
	return &inheritedSocket{file: f, addr: addr, both: both}, nil
}

// listen opens a socket for an address of the configuration: the inherited one
// of that address, else a new one.
func (s *inherited) listen(address string) (net.Listener, error) {
	if len(s.sockets) == 0 {
		return gateway.Listen(address)
	}
	// As package net would bind it.
	want, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	for _, socket := range s.sockets {
		if socket.serves(want) {
			ln, err := net.FileListener(socket.file)
			if err != nil {
				return nil, fmt.Errorf("%s, inherited from systemd: %w", address, err)
			}
			return ln, nil
		}
	}
	return gateway.Listen(address)
}

// serves reports whether a socket is what an address asks for. ":25" is both
// families and "[::]:25" is IPv6, which a socket of both families serves too:
// it is what systemd makes of ListenStream=[::]:25 unless BindIPv6Only= says
// otherwise.
func (s *inheritedSocket) serves(want *net.TCPAddr) bool {
	switch {
	case want.Port == 0 || want.Port != s.addr.Port:
		return false
	case want.IP == nil:
		return s.both
	}
	return want.IP.Equal(s.addr.IP) && want.Zone == s.addr.Zone
}

// report warns of each socket that no address of a configuration asks for, once
// until one does. Only systemd could close it: clients that connect wait in vain.
func (s *inherited) report(cfg *gateway.Config, log *slog.Logger) {
	for _, socket := range s.sockets {
		idle := !socket.wanted(cfg)
		if idle && !socket.idle {
			log.Warn("socket of systemd's is not used by any listener; take it out of the socket unit, or clients that connect wait in vain",
				"name", socket.file.Name(), "address", socket.addr.String())
		}
		socket.idle = idle
	}
}

func (s *inheritedSocket) wanted(cfg *gateway.Config) bool {
	for _, l := range cfg.Listeners {
		for _, address := range l.Addresses {
			if want, err := net.ResolveTCPAddr("tcp", address); err == nil && s.serves(want) {
				return true
			}
		}
	}
	return false
}
