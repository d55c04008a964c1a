package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
)

// visitTelnet asks for TLS by the START_TLS option (46) and has a line said
// back.
func visitTelnet(conn net.Conn, config *tls.Config) error {
	const (
		iac, sb, se = "\xff", "\xfa", "\xf0"
		will, do    = "\xfb", "\xfd"
		startTLS    = "\x2e"
		follows     = iac + sb + startTLS + "\x01" + iac + se
	)
	if err := expect(conn, iac+do+startTLS); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, iac+will+startTLS+follows); err != nil {
		return err
	}
	if err := expect(conn, follows); err != nil {
		return err
	}
	return visitEcho(conn, config)
}

// expect reads exactly what must come.
func expect(r io.Reader, want string) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if !bytes.Equal(got, []byte(want)) {
		return fmt.Errorf("% x came instead of % x", got, want)
	}
	return nil
}
