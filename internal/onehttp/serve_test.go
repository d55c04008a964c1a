package onehttp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/upgraders"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A visit is a client of Serve, on loopback.
type visit struct {
	net.Conn
	r      *bufio.Reader
	server net.Conn
	ended  chan error
}

func serve(t *testing.T, h http.HandlerFunc, stopping <-chan struct{}) *visit {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	v := &visit{Conn: client, r: bufio.NewReader(client), server: server, ended: make(chan error, 1)}
	client.SetDeadline(time.Now().Add(10 * time.Second))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if caught := recover(); caught != nil {
				v.ended <- fmt.Errorf("panic: %v", caught)
			}
		}()
		v.ended <- Serve(context.Background(), server, h, stopping)
	}()
	t.Cleanup(func() {
		client.Close()
		<-done
		server.Close()
	})
	return v
}

// end returns what Serve returned.
func (v *visit) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-v.ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not return")
		return nil
	}
}

func (v *visit) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(v, text); err != nil {
		t.Fatal(err)
	}
}

// answer reads one answer, and returns it with its body.
func (v *visit) answer(t *testing.T) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(v.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fmt.Fprintf(w, "%s %s %q", r.Method, r.RequestURI, body)
}

const get = "GET /a HTTP/1.1\r\nHost: www.example.org\r\n\r\n"

// Requests follow each other, and the connection is the caller's again when
// they have ended.
func TestServe(t *testing.T) {
	v := serve(t, echo, nil)
	v.say(t, get+"OPTIONS * HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
	if _, body := v.answer(t); body != `GET /a ""` {
		t.Errorf("got %s", body)
	}
	if _, body := v.answer(t); body != `OPTIONS * ""` {
		t.Errorf("got %s", body)
	}
	v.Conn.(*net.TCPConn).CloseWrite()
	if err := v.end(t); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(v.server, "still open"); err != nil {
		t.Error(err)
	}
	if b := make([]byte, 10); true {
		if _, err := io.ReadFull(v.r, b); err != nil || string(b) != "still open" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// A stop ends the connection between two requests, and lets the one in hand
// say that it is the last.
func TestStop(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprint("busy ", busy), func(t *testing.T) {
			stopping, entered, leave := make(chan struct{}), make(chan struct{}, 2), make(chan struct{}, 2)
			v := serve(t, func(w http.ResponseWriter, r *http.Request) {
				entered <- struct{}{}
				<-leave
			}, stopping)
			leave <- struct{}{}
			v.say(t, get)
			<-entered
			if res, _ := v.answer(t); res.Close {
				t.Error("closes too early")
			}
			if busy {
				v.say(t, get)
				<-entered
			}
			close(stopping)
			if busy {
				select {
				case err := <-v.ended:
					t.Fatalf("a request in hand is dropped: %v", err)
				case <-time.After(50 * time.Millisecond):
				}
				leave <- struct{}{}
				if res, _ := v.answer(t); !res.Close {
					t.Error("the last answer does not say so")
				}
			}
			if err := v.end(t); err != nil {
				t.Error(err)
			}
		})
	}
}

// A handler that gives up leaves an answer cut short, and the caller knows; a
// panic is nothing that one may overlook.
func TestPanic(t *testing.T) {
	for _, test := range []struct {
		with any
		want string
	}{{http.ErrAbortHandler, ErrCutShort.Error()}, {"a bug", "panic: a bug"}} {
		v := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(test.with)
		}, nil)
		v.say(t, get)
		if err := v.end(t); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("Serve returned %v, want %v", err, test.want)
		}
	}
}

// A handler that takes the connection over has it until it returns.
func TestHijack(t *testing.T) {
	v := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}, nil)
	v.say(t, get)
	if res, err := http.ReadResponse(v.r, nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	v.say(t, "not HTTP at all")
	v.Conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(v.r); err != nil || string(b) != "not HTTP at all" {
		t.Errorf("%q, %v", b, err)
	}
	if err := v.end(t); err != nil {
		t.Error(err)
	}
}

// What broke the stream is what Serve returns.
func TestBroken(t *testing.T) {
	v := serve(t, echo, nil)
	v.say(t, "POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 10\r\n\r\nhalf")
	v.Conn.(*net.TCPConn).SetLinger(0)
	v.Conn.Close()
	if err := v.end(t); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Serve returned %v", err)
	}
}

// A head has its time from its first byte on, whatever else is going on; a
// connection on which nothing was asked yet is ended by a stop as well.
func TestTimes(t *testing.T) {
	for _, behind := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			ended := make(chan error, 1)
			go func() {
				ended <- Serve(t.Context(), server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(2 * headTime) // a request that takes longer than the next one's head may
				}), nil)
			}()
			r := bufio.NewReader(client)
			began := time.Now()
			if behind {
				io.WriteString(client, get)
			}
			io.WriteString(client, get[:20])
			for i := range map[bool]int{false: 1, true: 2}[behind] {
				res, err := http.ReadResponse(r, nil)
				if want := map[bool]int{false: 400, true: 200}[behind && i == 0]; err != nil || res.StatusCode != want {
					t.Fatalf("got %v, %v, want %d", res, err, want)
				}
			}
			if took := time.Since(began); took != map[bool]time.Duration{false: headTime, true: 2 * headTime}[behind] {
				t.Errorf("it took %s", took)
			}
			if err := <-ended; !errors.Is(err, upgraders.ErrSyntax) {
				t.Error(err)
			}
			client.Close()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		stopping, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- Serve(t.Context(), server, http.HandlerFunc(echo), stopping) }()
		time.Sleep(time.Second)
		close(stopping)
		began := time.Now()
		if err := <-ended; err != nil || time.Since(began) > newConnGrace {
			t.Errorf("a stop takes %s, %v", time.Since(began), err)
		}
		client.Close()
	})
}
