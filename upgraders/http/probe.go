package http

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

const (
	maxAnswer  = 64 << 10
	answerTime = 10 * time.Second
)

// switching stands in a backend's stream where Request has taken the real one:
// the answer to the request that asked for TLS is still to come, in TLS.
const switching = "HTTP/1.1 101 Switching Protocols\r\n\r\n"

// forNothing is a request that asks a server for nothing.
func forNothing(host string) string { return "OPTIONS * HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

// takeOwed takes the answer that is due to a request for TLS, if there was
// one.
func takeOwed(c *wire.Conn) error {
	if !bytes.HasPrefix(c.Unread(), []byte(switching)) {
		return nil
	}
	c.Discard(len(switching))
	c.SetDeadline(time.Now().Add(answerTime))
	defer c.SetDeadline(time.Time{})
	res, err := readAnswer(c, "OPTIONS")
	if err == nil && res.Close {
		return fmt.Errorf("%w: it answers the request for TLS with %s, and leaves", upgraders.ErrBackend, res.Status)
	}
	return err
}

// An answered is a server's answer, whole.
type answered struct {
	*http.Response
	body []byte
}

// readAnswer takes one answer, which nothing may follow.
func readAnswer(c *wire.Conn, method string) (*answered, error) {
	r := bufio.NewReader(io.LimitReader(c, maxAnswer))
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", upgraders.ErrBackend, err)
	}
	if r.Buffered() > 0 {
		return nil, fmt.Errorf("%w: bytes behind its answer", upgraders.ErrBackend)
	}
	return &answered{res, body}, nil
}

// probe asks for nothing: a server that answers serves, whatever it says,
// unless it says that it does not. There is nothing to learn that a client is
// told before TLS.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	if err := takeOwed(link.Backend); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(link.Backend, ask("OPTIONS", "*", link)); err != nil {
		return nil, err
	}
	res, err := readAnswer(link.Backend, "OPTIONS")
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode == http.StatusServiceUnavailable:
		return nil, &upgraders.Refusal{Reply: "503"}
	case res.StatusCode == http.StatusUpgradeRequired:
		return nil, fmt.Errorf("%w: it asks for TLS itself (426)", upgraders.ErrBackend)
	}
	return upgraders.Capabilities{}, nil
}

// ask is a request of the gateway's own, the only one on its connection.
func ask(method, target string, link *upgraders.Link) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: sallyport\r\nConnection: close\r\n\r\n", method, target, link.Facts.Name)
}

// audit asks for what web servers show to their own machine only: the gateway's
// address may be that, and its clients then have it too.
func audit(ctx context.Context, link *upgraders.Link, told upgraders.Told) ([]upgraders.Finding, error) {
	if err := takeOwed(link.Backend); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(link.Backend, ask("GET", "/server-status?auto", link)); err != nil {
		return nil, err
	}
	res, err := readAnswer(link.Backend, "GET")
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(res.body, []byte("Scoreboard:")) {
		return nil, err
	}
	severity, whom := upgraders.Doubtful, "the gateway, and so to everyone who comes through it"
	if told.Proxied {
		severity, whom = upgraders.Wrong, "a client from nowhere"
	}
	return []upgraders.Finding{{
		Severity: severity,
		What:     "shows /server-status, with the addresses and requests of all clients, to " + whom,
		Mend:     "take it out (a2dismod status), or have mod_remoteip believe the gateway, so that Require local is about clients",
	}}, nil
}

// request asks a server for TLS: RFC 2817, 3.2. Where no name of the server's is
// known, it is named by its address.
func request(_ context.Context, backend *wire.Conn, host string) error {
	if host == "" {
		host = "localhost"
		if a, ok := backend.RemoteAddr().(*net.TCPAddr); ok {
			host = netip.AddrPortFrom(a.AddrPort().Addr().Unmap().WithZone(""), uint16(a.Port)).String()
		}
	}
	if _, err := io.WriteString(backend, "OPTIONS * HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n"); err != nil {
		return err
	}
	var status string
	for n := 0; ; n++ {
		line, err := backend.ReadLine(maxBackendLine)
		switch {
		case err != nil:
			return err
		case n == 0:
			status = string(line)
		case len(line) == 0:
			if _, code, _ := strings.Cut(status, " "); !strings.HasPrefix(status, "HTTP/1.1 ") || !strings.HasPrefix(code, "101") {
				return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, status[:min(len(status), 100)])
			}
			if backend.Pipelined() {
				return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
			}
			return nil
		}
	}
}

const maxBackendLine = 4 << 10
