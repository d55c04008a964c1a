package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// dialTLS opens a session in TLS with the name localhost.
func dialTLS(address string, roots *x509.CertPool) (net.Conn, error) {
	return dialOldTLS(address, roots, tls.VersionTLS13)
}

// dialOldTLS is dialTLS of a client that knows nothing newer.
func dialOldTLS(address string, roots *x509.CertPool, version uint16) (net.Conn, error) {
	d := &net.Dialer{Timeout: patience}
	return tls.DialWithDialer(d, "tcp", address, &tls.Config{RootCAs: roots, ServerName: "localhost", MaxVersion: version})
}

// sayAndHear sends a line to the echo backend and wants it back.
func sayAndHear(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(patience))
	defer conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "hello\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "hello\r\n" {
		err = fmt.Errorf("%q came back", line)
	}
	return err
}

// fetch gets a page, by a unix socket where one is given: its status on the
// first line, then the body.
func fetch(method, url, socket string) ([]byte, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	// A connection of its own, as each scrape of another gateway is.
	transport := &http.Transport{DisableKeepAlives: true}
	if socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	client := &http.Client{Timeout: patience, Transport: transport}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return append([]byte(resp.Status+"\n"), body...), err
}
