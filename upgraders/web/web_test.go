package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// A feed is a client that has sent all it will, in these pieces.
type feed struct {
	net.Conn
	pieces [][]byte
	writes [][]byte
}

func (f *feed) Read(p []byte) (int, error) {
	if len(f.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.pieces[0])
	if f.pieces[0] = f.pieces[0][n:]; len(f.pieces[0]) == 0 {
		f.pieces = f.pieces[1:]
	}
	return n, nil
}

func (f *feed) Write(p []byte) (int, error) {
	f.writes = append(f.writes, bytes.Clone(p))
	return len(p), nil
}

// asked is what reached a page.
type asked struct{ method, host, path string }

// visit sends pieces and returns what came of them, with the date taken out.
func visit(pieces ...[]byte) (said []byte, got []asked, writes int, err error) {
	f := &feed{pieces: slices.DeleteFunc(pieces, func(p []byte) bool { return len(p) == 0 })}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, asked{r.Method, r.Host, r.URL.Path})
		io.WriteString(w, "a page\n")
	})
	err = serve(context.Background(), f, "192.0.2.10:49152", page)
	return date.ReplaceAll(bytes.Join(f.writes, nil), nil), got, len(f.writes), err
}

var date = regexp.MustCompile(`(?m)^Date: .*\r\n`)

// everything is all that can be said of a request by ourselves.
func everything() []byte {
	var all bytes.Buffer
	for _, r := range refusals {
		for _, close := range []bool{false, true} {
			a := newAnswer()
			a.refuse(r.Answer)
			a.close = close
			a.writeTo(&all, http.MethodGet)
		}
	}
	a := newAnswer()
	io.WriteString(a, "a page\n")
	a.writeTo(&all, http.MethodGet)
	return all.Bytes()
}

// FuzzServe looks for requests that break what this package promises: a panic,
// an answer in pieces or one that depends on how the bytes were cut, one that
// repeats what the client said, and a request that net/http, which reads more
// kindly, would read otherwise.
func FuzzServe(f *testing.F) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		f.Fatal("no scripts to begin with", err)
	}
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var said strings.Builder
		for line := range strings.Lines(string(text)) {
			if words, ok := strings.CutPrefix(line, "C>"); ok {
				said.WriteString(strings.TrimPrefix(strings.TrimLeft(strings.TrimRight(words, "\n"), "+-"), " ") + "\r\n")
			}
		}
		f.Add([]byte(said.String()), 3)
	}
	ours := everything()
	f.Fuzz(func(t *testing.T, said []byte, at int) {
		answer, got, writes, err := visit(said)
		if n := bytes.Count(answer, []byte("HTTP/1.1 ")); n != writes {
			t.Errorf("%d answers in %d writes: %q", n, writes, answer)
		}
		at = max(0, min(at, len(said)))
		for _, pieces := range [][][]byte{slices.Collect(slices.Chunk(said, 1)), {said[:at], said[at:]}} {
			other, otherGot, _, otherErr := visit(pieces...)
			if !bytes.Equal(answer, other) || !slices.Equal(got, otherGot) || upgraders.Reason(err) != upgraders.Reason(otherErr) {
				t.Errorf("it depends on how the bytes are cut:\n%q %v\n%q %v", answer, err, other, otherErr)
			}
		}
		for i := 0; i+12 <= len(said); i++ {
			if w := said[i : i+12]; bytes.Contains(answer, w) && !bytes.Contains(ours, w) {
				t.Errorf("%q is repeated: %q", w, answer)
			}
		}
		in := bufio.NewReader(bytes.NewReader(said))
		for _, page := range got {
			r, err := http.ReadRequest(in)
			if err != nil {
				t.Fatalf("net/http refuses what was served as %v: %v", page, err)
			}
			if want := (asked{r.Method, strings.ToLower(r.Host), r.URL.Path}); page != want {
				t.Errorf("net/http reads %q, and served was %q", want, page)
			}
		}
	})
}

// A page that is too long says so to who writes it, and no more than a page
// goes out; a field cannot be made to hold two; the first status counts.
func TestAnswer(t *testing.T) {
	a := newAnswer()
	a.WriteHeader(http.StatusPermanentRedirect)
	a.WriteHeader(http.StatusOK)
	a.Header().Set("Location", "https://mx.example.org/\r\nSet-Cookie: a=b")
	if _, err := a.Write(make([]byte, maxBody)); err != nil {
		t.Error(err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, errPage) {
		t.Errorf("one byte more: %v", err)
	}
	var b bytes.Buffer
	if err := a.writeTo(&b, http.MethodGet); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(&b), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	if r.StatusCode != 308 || len(body) != maxBody || len(r.Cookies()) > 0 || !strings.HasPrefix(r.Header.Get("Location"), "https://mx.example.org/ ") {
		t.Errorf("status %d, %d bytes, cookies %v, location %q", r.StatusCode, len(body), r.Cookies(), r.Header.Get("Location"))
	}
}

// A listener without pages has none, and says so.
func TestNoPages(t *testing.T) {
	h := upgrader{}.Implicit(&upgraders.Session{Listener: &upgraders.Listener{}})
	f := &feed{pieces: [][]byte{[]byte("GET / HTTP/1.0\r\n\r\n")}}
	if err := h.Serve(t.Context(), wire.NewConn(f), nil); err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprintf("%s", bytes.Join(f.writes, nil)); !strings.HasPrefix(said, "HTTP/1.1 404 ") {
		t.Errorf("said %q", said)
	}
}

// A page knows who asks, and whether in TLS.
func TestPageKnowsTheClient(t *testing.T) {
	server := httptest.NewUnstartedServer(nil) // for its certificate
	server.StartTLS()
	defer server.Close()
	for _, inTLS := range []bool{false, true} {
		near, far := net.Pipe()
		defer near.Close()
		conn := far
		if inTLS {
			conn = tls.Server(far, server.TLS)
		}
		var knows string
		h := upgrader{}.Implicit(&upgraders.Session{
			Client: netip.MustParseAddrPort("192.0.2.10:49152"),
			Listener: &upgraders.Listener{Pages: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				knows = fmt.Sprint(r.RemoteAddr, " ", r.TLS != nil && r.TLS.HandshakeComplete)
			})},
		})
		served := make(chan error, 1)
		go func() { served <- h.Serve(t.Context(), wire.NewConn(conn), nil) }()
		var client io.ReadWriter = near
		if inTLS {
			client = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
		}
		io.WriteString(client, "GET / HTTP/1.0\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if want := fmt.Sprint("192.0.2.10:49152 ", inTLS); knows != want {
			t.Errorf("the page knows %q, want %q", knows, want)
		}
	}
}
