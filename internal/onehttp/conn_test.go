package onehttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// A recorder is a handler that notes what reaches it, and answers.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, fmt.Sprintf("%s %s %s %d %q %v", req.Method, req.RequestURI, req.Host, req.ContentLength, body, req.Trailer))
	w.Write(body)
}

// A reel is a connection on which a client says what is on it and ends.
type reel struct {
	pieces [][]byte
	mu     sync.Mutex
	out    bytes.Buffer
}

var _ net.Conn = (*reel)(nil)

func (r *reel) Read(p []byte) (int, error) {
	if len(r.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.pieces[0])
	if r.pieces[0] = r.pieces[0][n:]; len(r.pieces[0]) == 0 {
		r.pieces = r.pieces[1:]
	}
	return n, nil
}

func (r *reel) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

func (r *reel) Close() error                     { return nil }
func (r *reel) CloseWrite() error                { return nil }
func (r *reel) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (r *reel) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r *reel) SetDeadline(time.Time) error      { return nil }
func (r *reel) SetReadDeadline(time.Time) error  { return nil }
func (r *reel) SetWriteDeadline(time.Time) error { return nil }

// run serves what a client says, in pieces of a size, and returns what the
// handler saw, what the client got and what Serve returned.
func run(said string, piece int) (seen []string, got string, err error) {
	r := &reel{}
	for rest := []byte(said); len(rest) > 0; {
		n := min(piece, len(rest))
		r.pieces, rest = append(r.pieces, rest[:n]), rest[n:]
	}
	h := &recorder{}
	err = Serve(context.Background(), r, h, nil)
	return h.seen, r.out.String(), err
}

// H-07: what two parsers could read differently is refused: 400, and nothing of
// it or behind it reaches the handler. What is only unusual is served.
func TestStrict(t *testing.T) {
	const host = "Host: www.example.org\r\n"
	const smuggled = "GET /smuggled HTTP/1.1\r\n" + host + "\r\n"
	for _, test := range []struct {
		name, said string
		want       error // nil: it is served
	}{
		{"plain", "GET / HTTP/1.1\r\n" + host + "\r\n", nil},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", nil},
		{"Host with a port", "GET / HTTP/1.1\r\nHost: www.example.org:8080\r\n\r\n", nil},
		{"Host that is an address", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n", nil},
		{"absolute form", "GET http://www.example.org/a?b HTTP/1.1\r\n" + host + "\r\n", nil},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", nil},
		{"sized", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhello", nil},
		{"empty", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", nil},
		{"chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", nil},
		{"trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n1\r\na\r\n0\r\nSum: 1\r\n\r\n", nil},
		{"blanks around a value", "GET / HTTP/1.1\r\nHost:\t www.example.org \t\r\n\r\n", nil},

		{"both framings", "POST / HTTP/1.1\r\n" + host + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"both framings, turned", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 51\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"two lengths, the same", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", upgraders.ErrSyntax},
		{"a list of lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5, 5\r\n\r\nhello", upgraders.ErrSyntax},
		{"a length with a sign", "POST / HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\nhello", upgraders.ErrSyntax},
		{"a length below zero", "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\nhello", upgraders.ErrSyntax},
		{"a length in hexadecimal", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x5\r\n\r\nhello", upgraders.ErrSyntax},
		{"a length beyond all", "POST / HTTP/1.1\r\n" + host + "Content-Length: 9223372036854775808\r\n\r\nhello", upgraders.ErrSyntax},
		{"an empty length", "POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"a coding twice", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"chunked, not at the end", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"another coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a coding that is nearly chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"a coding with a vertical tab", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a blank before the colon", "POST / HTTP/1.1\r\n" + host + "Content-Length : 5\r\n\r\nhello", upgraders.ErrSyntax},
		{"a blank before the name", "POST / HTTP/1.1\r\n" + host + " Content-Length: 5\r\n\r\nhello", upgraders.ErrSyntax},
		{"a folded field", "GET / HTTP/1.1\r\n" + host + "X-A: b\r\n c\r\n\r\n", upgraders.ErrSyntax},
		{"a fold in the first field", "GET / HTTP/1.1\r\n " + host + "\r\n", upgraders.ErrSyntax},
		{"a name that is none", "GET / HTTP/1.1\r\n" + host + "X(A): b\r\n\r\n", upgraders.ErrSyntax},
		{"an empty name", "GET / HTTP/1.1\r\n" + host + ": b\r\n\r\n", upgraders.ErrSyntax},
		{"a line that is no field", "GET / HTTP/1.1\r\n" + host + "X-A\r\n\r\n", upgraders.ErrSyntax},
		{"a control character", "GET / HTTP/1.1\r\n" + host + "X-A: a\x01b\r\n\r\n", upgraders.ErrSyntax},
		{"NUL", "GET / HTTP/1.1\r\n" + host + "X-A: a\x00b\r\n\r\n", wire.ErrNUL},
		{"bare LF", "GET / HTTP/1.1\r\n" + host + "X-A: b\nX-B: c\r\n\r\n", wire.ErrBareNewline},
		{"bare LF at the end", "GET / HTTP/1.1\r\n" + host + "\n", wire.ErrBareNewline},
		{"bare LF everywhere", "GET / HTTP/1.1\nHost: www.example.org\n\n", wire.ErrBareNewline},
		{"bare CR", "GET / HTTP/1.1\r\n" + host + "X-A: b\rX-B: c\r\n\r\n", wire.ErrBareNewline},
		{"CR twice", "GET / HTTP/1.1\r\n" + host + "X-A: b\r\r\n\r\n", wire.ErrBareNewline},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", upgraders.ErrSyntax},
		{"two Hosts", "GET / HTTP/1.1\r\n" + host + "Host: other.example.org\r\n\r\n", upgraders.ErrSyntax},
		{"two Hosts, the same", "GET / HTTP/1.1\r\n" + host + host + "\r\n", upgraders.ErrSyntax},
		{"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", upgraders.ErrSyntax},
		{"a Host with a user", "GET / HTTP/1.1\r\nHost: a@www.example.org\r\n\r\n", upgraders.ErrSyntax},
		{"a Host with a path", "GET / HTTP/1.1\r\nHost: www.example.org/a\r\n\r\n", upgraders.ErrSyntax},
		{"a list of Hosts", "GET / HTTP/1.1\r\nHost: www.example.org, other.example.org\r\n\r\n", upgraders.ErrSyntax},
		{"a Host with a port that is none", "GET / HTTP/1.1\r\nHost: www.example.org:99999\r\n\r\n", upgraders.ErrSyntax},
		{"a Host that is no address", "GET / HTTP/1.1\r\nHost: [2001:db8::1\r\n\r\n", upgraders.ErrSyntax},
		{"another host in the target", "GET http://other.example.org/ HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a user in the target", "GET http://a@www.example.org/ HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"another scheme", "GET ftp://www.example.org/ HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"CONNECT", "CONNECT www.example.org:443 HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"an asterisk", "GET * HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a fragment", "GET /a#b HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"eight bits in the target", "GET /\xc3\xa4 HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a blank in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"two blanks", "GET  / HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a tab", "GET\t/ HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a blank at the end of the line", "GET / HTTP/1.1 \r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a blank at the beginning", " GET / HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a method that is none", "G(T / HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a long method", strings.Repeat("A", 33) + " / HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"HTTP/0.9", "GET /\r\n", upgraders.ErrSyntax},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", upgraders.ErrSyntax},
		{"HTTP/1.2", "GET / HTTP/1.2\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"http", "GET / http/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"an empty line first", "\r\nGET / HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"a ClientHello", "\x16\x03\x01\x02\x00", wire.ErrClientHello},
		{"many fields", "GET / HTTP/1.1\r\n" + host + strings.Repeat("A: b\r\n", maxFields) + "\r\n", wire.ErrTooLong},
		{"a long field", "GET / HTTP/1.1\r\n" + host + "A: " + strings.Repeat("b", MaxHead) + "\r\n\r\n", wire.ErrTooLong},
		{"a long line", "GET /" + strings.Repeat("b", MaxHead), wire.ErrTooLong},

		{"a chunk without a size", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n\r\n" + smuggled, upgraders.ErrSyntax},
		{"framing above all", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 20) + "0\r\n\r\n", upgraders.ErrSyntax},
		{"a trailer that is no field", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTrailer: a b\r\n\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"CONNECT with a path", "CONNECT / HTTP/1.1\r\n" + host + "\r\n", upgraders.ErrSyntax},
		{"CONNECT with an address", "CONNECT http://www.example.org/ HTTP/1.1\r\nHost: www.example.org\r\n\r\n", upgraders.ErrSyntax},
		{"a size with a sign", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size with a prefix", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size with an underscore", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size with a blank", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size beyond all", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size with many zeros", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n00000000000000005\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size that goes round", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a size with bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", wire.ErrBareNewline},
		{"an extension with bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", wire.ErrBareNewline},
		{"a long extension", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("a", maxChunkLine) + "\r\nhello\r\n0\r\n\r\n", wire.ErrTooLong},
		{"a chunk that goes on", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello, world\r\n0\r\n\r\n", upgraders.ErrSyntax},
		{"a chunk that ends with bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", wire.ErrBareNewline},
		{"a trailer with bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n" + smuggled, wire.ErrBareNewline},
		{"a folded trailer", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", upgraders.ErrSyntax},
		{"endless trailers", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 500)+"\r\n", 20) + "\r\n", wire.ErrTooLong},
	} {
		for _, piece := range []int{1 << 20, 1, 7} {
			t.Run(fmt.Sprintf("%s/%d", test.name, piece), func(t *testing.T) {
				seen, got, err := run(test.said, piece)
				if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
					t.Errorf("Serve returned %v, want %v", err, test.want)
				}
				switch {
				case test.want == nil && (len(seen) != 1 || !strings.HasPrefix(got, "HTTP/1.") || !strings.Contains(got, " 200 OK\r\n")):
					t.Errorf("not served: %q, got %q", seen, got)
				case test.want != nil && (len(seen) != 0 || !strings.HasPrefix(got, "HTTP/1.1 400 Bad Request\r\n") || strings.Count(got, "HTTP/1.") != 1):
					t.Errorf("not refused: %q, got %q", seen, got)
				case strings.Contains(got, "smuggled"):
					t.Errorf("the answer repeats the client: %q", got)
				}
				// A good request before it is not the worse for it.
				seen, got, err = run(get+test.said, piece)
				if want := map[bool]int{true: 2, false: 1}[test.want == nil]; len(seen) != want || !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || strings.Count(got, "HTTP/1.") != 2 || !errors.Is(err, test.want) {
					t.Errorf("behind a good request: %q, got %q, %v", seen, got, err)
				}
			})
		}
	}
}

// What is a Host, and what is none (RFC 3986, 3.2.2; RFC 9110, 7.2).
func TestHosts(t *testing.T) {
	for _, good := range []string{"mx.example.org", "MX.example.org.", "mx.example.org:80", "192.0.2.1", "192.0.2.1:8080", "[2001:db8::1]", "[2001:db8::1]:80", "a_b.example.org"} {
		if !isAuthority(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", ":80", "mx.example.org:", "mx.example.org:http", "mx.example.org:65536", "a b", "a/b", "a@b", "a,b", "é.example.org", "[mx]", "[192.0.2.1]", "[::1", "::1]", "[::1]:", "[::1]1", "[fe80::1%25lo]", "[fe80::1%lo]", "a\tb", "a?b", "a#b"} {
		if isAuthority(bad) {
			t.Errorf("%q is taken for a host", bad)
		}
	}
}

// A stream that ends in the middle of a request is none that was whole.
func TestIncomplete(t *testing.T) {
	for _, said := range []string{
		"GET / HT",
		"GET / HTTP/1.1\r\nHost: www.example.org\r\n",
		"POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 5\r\n\r\nhell",
		"POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
	} {
		if seen, _, err := run(said, len(said)); len(seen) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %q, %v", said, seen, err)
		}
	}
}

// A client that ends its side, in good order, gets the answers it waits for.
func TestHalfClose(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	v := serve(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		select {
		case <-leave:
			io.WriteString(w, "answered")
		case <-r.Context().Done():
			t.Error("the request is given up")
		}
	}, nil)
	v.say(t, get)
	<-entered
	v.Conn.(*net.TCPConn).CloseWrite()
	time.Sleep(20 * time.Millisecond) // for the end to be seen
	close(leave)
	if _, body := v.answer(t); body != "answered" {
		t.Errorf("got %q", body)
	}
	if err := v.end(t); err != nil {
		t.Error(err)
	}
}

// A client that breaks its side ends the request in hand.
func TestClientGone(t *testing.T) {
	entered := make(chan struct{})
	v := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}, nil)
	v.say(t, get)
	<-entered
	v.Conn.(*net.TCPConn).SetLinger(0)
	v.Conn.Close()
	if err := v.end(t); err == nil {
		t.Error("nothing broke")
	}
}

// What a client says before a switch of protocols is no part of what comes
// after it.
func TestAheadOfSwitch(t *testing.T) {
	for _, ahead := range []string{get, "x\n"} {
		hijacked := make(chan error, 1)
		v := serve(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Millisecond) // for net/http to look ahead
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, err = io.WriteString(c, "switched")
			}
			hijacked <- err
		}, nil)
		v.say(t, get+ahead)
		if err := v.end(t); !ours(err) {
			t.Errorf("%q: Serve returned %v", ahead, err)
		}
		if err := <-hijacked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%q: the handler can write: %v", ahead, err)
		}
	}
}

// FuzzConn holds what net/http makes of a client against what was let pass:
// the verdict depends on no framing of segments, and the first request is the
// one that ReadHead read.
func FuzzConn(f *testing.F) {
	for _, seed := range []string{
		get + get,
		"POST /a HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n" + get,
		"POST /a HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc" + get,
		"OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nExpect: 100-continue\r\n\r\n",
		"GET http://www.example.org/%zz HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, said []byte, piece uint8) {
		seen, got, err := run(string(said), len(said))
		again, gotAgain, errAgain := run(string(said), 1+int(piece))
		if fmt.Sprint(seen) != fmt.Sprint(again) || (err == nil) != (errAgain == nil) {
			t.Errorf("it depends on the pieces: %q %v, %q %v", seen, err, again, errAgain)
		}
		if strings.Count(got, "HTTP/1.1 ") != strings.Count(gotAgain, "HTTP/1.1 ") {
			t.Errorf("the answers depend on the pieces: %q, %q", got, gotAgain)
		}
		h, err := ReadHead(wire.NewConn(&reel{pieces: [][]byte{said}}))
		if len(seen) == 0 {
			return
		}
		if err != nil {
			t.Fatalf("%q passed, and is refused by itself: %v", seen[0], err)
		}
		if want := fmt.Sprintf("%s %s %s %d ", h.Method, h.Target, h.Host, h.Length); !strings.HasPrefix(seen[0], want) {
			t.Errorf("net/http sees %q, we see %q", seen[0], want)
		}
	})
}
