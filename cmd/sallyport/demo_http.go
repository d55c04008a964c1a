package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// serveWeb is the HTTP of an old server that says how a client came.
func serveWeb(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		text := r.Header.Get("X-Forwarded-Proto")
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(text), text); err != nil {
			return
		}
	}
}

// visitHTTP asks for TLS as a printer's client does, and then for a page.
func visitHTTP(conn net.Conn, config *tls.Config) error {
	io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n")
	if err := expect(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n"); err != nil {
		return err
	}
	c := tls.Client(conn, config)
	in := bufio.NewReader(c)
	if err := answered(in, "https"); err != nil { // the OPTIONS, in TLS
		return err
	}
	return browse(c, in)
}

// visitHTTPS asks for a page over implicit TLS.
func visitHTTPS(conn net.Conn, config *tls.Config) error {
	c := tls.Client(conn, config)
	return browse(c, bufio.NewReader(c))
}

func browse(c net.Conn, in *bufio.Reader) error {
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	return answered(in, "https")
}

// answered reads an answer that must say something.
func answered(in *bufio.Reader, want string) error {
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && !strings.Contains(string(body), want) {
		err = fmt.Errorf("%s, and %q instead of %q", res.Status, body, want)
	}
	return err
}
