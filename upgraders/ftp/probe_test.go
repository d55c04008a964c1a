package ftp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// asked runs ask before a server that greets, and answers each verb with its
// line of answers, or with 500.
func asked(greeting string, answers map[string]string, ask func(*upgraders.Link) error) error {
	gateway, server := net.Pipe()
	deadline := time.Now().Add(patience)
	gateway.SetDeadline(deadline)
	server.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		in := bufio.NewReader(server)
		io.WriteString(server, greeting)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			verb, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			answer, ok := answers[verb]
			if !ok {
				answer = "500 what?\r\n"
			}
			if _, err := io.WriteString(server, answer); err != nil {
				return
			}
		}
	}()
	err := ask(&upgraders.Link{Backend: wire.NewConn(gateway), Log: func(string, ...any) {}})
	gateway.Close()
	<-done
	return err
}

// Probe knows a list of features by its form, and a server that refuses to
// serve, or is none, from one that has no list.
func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		greeting, feat string
		want           upgraders.Capabilities
		err            error
	}{
		"a list":           {"220 a\r\n", "211-Features:\r\n UTF8\r\n211-SIZE\r\n REST STREAM\r\n211 End\r\n", upgraders.Capabilities{"UTF8", "SIZE", "REST STREAM"}, nil},
		"a long greeting":  {"220-a\r\n220 is what we say\r\n", "211-x\r\n211 End\r\n", upgraders.Capabilities{}, nil},
		"nothing":          {"220 a\r\n", "211 no features\r\n", upgraders.Capabilities{}, nil},
		"no FEAT":          {"220 a\r\n", "502 no\r\n", upgraders.Capabilities{}, nil},
		"not before login": {"220 a\r\n", "530 log in\r\n", upgraders.Capabilities{}, nil},
		"not now":          {"421 busy\r\n", "", nil, upgraders.ErrTryNext},
		"in a moment":      {"120 soon\r\n", "", nil, upgraders.ErrTryNext},
		"not FTP":          {"SSH-2.0-x\r\n", "", nil, upgraders.ErrBackend},
		"endless":          {"220 a\r\n", "211-x\r\n" + strings.Repeat(" A\r\n", maxLines), nil, upgraders.ErrBackend},
		"a long line":      {"220 a\r\n", "211-x\r\n" + strings.Repeat("A", maxReply) + "\r\n", nil, upgraders.ErrBackend},
	} {
		t.Run(name, func(t *testing.T) {
			var got upgraders.Capabilities
			err := asked(c.greeting, map[string]string{"FEAT": c.feat}, func(link *upgraders.Link) (err error) {
				got, err = probe(context.Background(), link)
				return err
			})
			if !slices.Equal(got, c.want) || (got == nil) != (c.want == nil) || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// B-01, B-02: a server that refuses TLS, has none, or says more behind its
// go-ahead is not taken for one that has it.
func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		greeting, auth string
		err            error
	}{
		"TLS":                  {"220 a\r\n", "234 go\r\n", nil},
		"none":                 {"220 a\r\n", "500 what?\r\n", upgraders.ErrNotOffered},
		"not now":              {"220 a\r\n", "431 no\r\n", upgraders.ErrNotOffered},
		"more to say":          {"220 a\r\n", "334 ADAT=\r\n", upgraders.ErrNotOffered},
		"busy":                 {"421 busy\r\n", "", upgraders.ErrNotOffered},
		"behind the go-ahead":  {"220 a\r\n", "234 go\r\n230 welcome\r\n", upgraders.ErrBackend},
		"behind the greeting":  {"220 a\r\n234 go\r\n", "234 go\r\n", upgraders.ErrBackend},
		"a reply without code": {"220 a\r\n", "okay\r\n", upgraders.ErrBackend},
	} {
		t.Run(name, func(t *testing.T) {
			err := asked(c.greeting, map[string]string{"AUTH": c.auth}, func(link *upgraders.Link) error {
				if err := request(context.Background(), link.Backend, ""); err != nil {
					return err
				}
				if link.Backend.Pipelined() {
					return upgraders.ErrBackend // as the gateway has it
				}
				return nil
			})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("got %v, want %v", err, c.err)
			}
		})
	}
}

// Each fault of a server is found, and nothing else.
func TestAudit(t *testing.T) {
	good := map[string]string{"USER": "331 password?\r\n", "PBSZ": "200 ok\r\n", "PROT": "200 ok\r\n", "QUIT": "221 bye\r\n"}
	with := func(verb, answer string) map[string]string {
		m := map[string]string{}
		for k, v := range good {
			m[k] = v
		}
		m[verb] = answer
		return m
	}
	for name, c := range map[string]struct {
		answers map[string]string
		tls     bool
		told    upgraders.Told
		want    []string // severity, What, Mend
	}{
		"well kept":          {good, false, upgraders.Told{}, nil},
		"well kept in TLS":   {good, true, upgraders.Told{}, nil},
		"asks no password":   {with("USER", "230 welcome\r\n"), false, upgraders.Told{}, nil},
		"wants TLS":          {with("USER", "530 use AUTH\r\n"), false, upgraders.Told{}, []string{"error", "USER in cleartext", "TLSRequired off"}},
		"refuses in TLS":     {with("USER", "530 nobody\r\n"), true, upgraders.Told{}, nil},
		"no PROT P":          {with("PROT", "534 no\r\n"), true, upgraders.Told{}, []string{"error", "protect data", "PROT P"}},
		"is told of clients": {good, false, upgraders.Told{Proxied: true}, []string{"warning", "data connections", "AllowForeignAddress"}},
	} {
		t.Run(name, func(t *testing.T) {
			var findings []upgraders.Finding
			err := asked("220 a\r\n", c.answers, func(link *upgraders.Link) (err error) {
				link.BackendTLS = c.tls
				findings, err = audit(context.Background(), link, c.told)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				if len(findings) > 0 {
					t.Errorf("found %+v", findings)
				}
				return
			}
			if len(findings) != 1 || findings[0].Severity.String() != c.want[0] || !strings.Contains(findings[0].What, c.want[1]) || !strings.Contains(findings[0].Mend, c.want[2]) {
				t.Errorf("found %+v", findings)
			}
		})
	}
	if asked("421 busy\r\n", nil, func(link *upgraders.Link) error {
		_, err := audit(context.Background(), link, upgraders.Told{})
		return err
	}) == nil {
		t.Error("no error for 421")
	}
}
