package nntp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// serve is a server that greets and answers each command by its verb, with 205
// those that it is told nothing of. It returns a link to it, and what it heard
// once the link is closed.
func serve(greeting string, answers map[string]string) (*upgraders.Link, func() []string) {
	gateway, server := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	gateway.SetDeadline(deadline)
	server.SetDeadline(deadline)
	heard := make(chan []string, 1)
	go func() {
		var lines []string
		defer func() { server.Close(); heard <- lines }()
		io.WriteString(server, strings.ReplaceAll(greeting, "\n", "\r\n"))
		for in := bufio.NewReader(server); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			lines = append(lines, strings.TrimSpace(line))
			answer, ok := answers[strings.TrimSpace(line)]
			if !ok {
				answer = "205 bye\n"
			}
			io.WriteString(server, strings.ReplaceAll(answer, "\n", "\r\n"))
		}
	}()
	link := &upgraders.Link{Backend: wire.NewConn(gateway), Log: func(string, ...any) {}}
	return link, func() []string { gateway.Close(); return <-heard }
}

// The probe learns the lines of the capability list, or from a server that has
// none (RFC 3977 is of 2006) whether one may post.
func TestProbe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, greeting, answer string
		want                   upgraders.Capabilities
		err                    error
	}{
		{"list", "200 ready\n", "101 list\nVERSION 2\nSTARTTLS\nAUTHINFO USER SASL\n.\n", upgraders.Capabilities{"VERSION 2", "STARTTLS", "AUTHINFO USER SASL"}, nil},
		{"no list", "200 ready\n", "500 what?\n", upgraders.Capabilities{"POST"}, nil},
		{"no list, no posting", "201 ready\n", "500 what?\n", upgraders.Capabilities{}, nil},
		{"turned away", "502 no\n", "", nil, upgraders.ErrTryNext},
		{"ahead of us", "200 ready\n281 in\n", "", nil, upgraders.ErrBackend}, // G-07
		{"no end", "200 ready\n", "101 list\n" + strings.Repeat("OVER\n", maxLines+1), nil, upgraders.ErrBackend},
		{"not NNTP", "+OK ready\n", "", nil, upgraders.ErrBackend},
		{"no code", "200 ready\n", "1012 list\n", nil, upgraders.ErrBackend},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, heard := serve(c.greeting, map[string]string{"CAPABILITIES": c.answer})
			got, err := probe(context.Background(), link)
			heard()
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// B-01, B-02: a backend that refuses TLS, or says more behind its go-ahead, is
// never spoken with in the clear instead.
func TestRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, greeting, answer string
		want                   error
	}{
		{"go-ahead", "201 ready\n", "382 go\n", nil},
		{"refused", "200 ready\n", "580 no\n", upgraders.ErrNotOffered},
		{"not known", "200 ready\n", "500 what?\n", upgraders.ErrNotOffered},
		{"turned away", "400 busy\n", "", upgraders.ErrNotOffered},
		{"injected", "200 ready\n", "382 go\n281 in\n", upgraders.ErrBackend},
		{"not NNTP", "* OK ready\n", "", upgraders.ErrBackend},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, heard := serve(c.greeting, map[string]string{"STARTTLS": c.answer})
			if err := request(context.Background(), link.Backend, ""); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			heard()
		})
	}
}

// Each fault of a server is found, and nothing else.
func TestAudit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		list        string
		passBinding bool
		want        []string
	}{
		"well kept":           {"VERSION 2\nREADER\nAUTHINFO USER\nSASL PLAIN\n", false, nil},
		"posting":             {"VERSION 2\nPOST\n", false, []string{"warning", "post without a password", "readers.conf"}},
		"feeding":             {"VERSION 2\nIHAVE\n", false, []string{"error", "for a peer", "incoming.conf"}},
		"a switch of modes":   {"VERSION 2\nIHAVE\nMODE-READER\n", false, nil},
		"no logins":           {"VERSION 2\nauthinfo\n", false, []string{"error", "forbids logins", "require_encryption"}},
		"channel binding":     {"SASL PLAIN SCRAM-SHA-1-PLUS\n", false, []string{"warning", "SCRAM-SHA-1-PLUS", "do not offer it"}},
		"binding that passes": {"SASL PLAIN SCRAM-SHA-1-PLUS\n", true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			link, heard := serve("200 ready\n", map[string]string{"CAPABILITIES": "101 list\n" + c.list + ".\n"})
			link.PassBinding = c.passBinding
			findings, err := audit(context.Background(), link, upgraders.Told{})
			heard()
			switch {
			case err != nil:
				t.Fatal(err)
			case len(findings) != min(len(c.want), 1):
				t.Errorf("found %+v", findings)
			case c.want != nil && (findings[0].Severity.String() != c.want[0] || !strings.Contains(findings[0].What, c.want[1]) || !strings.Contains(findings[0].Mend, c.want[2])):
				t.Errorf("found %+v", findings)
			}
		})
	}
	link, heard := serve("400 busy\n", nil)
	if _, err := audit(context.Background(), link, upgraders.Told{}); err == nil {
		t.Error("no error for 400")
	}
	heard()
}

// N-05: a block ends with CRLF . CRLF, or is empty, wherever it is cut; nothing
// like that ends it, and what comes behind is not of it.
func TestBlock(t *testing.T) {
	t.Parallel()
	for text, behind := range map[string]string{
		".\r\n":                "",
		"a\r\n.\r\n":           ".\r\n",
		"..\r\n.\r\n":          "STARTTLS\r\n",
		".a\r\n.\r\n":          "x",
		".\r.\r\n\r\n.\r\n":    "x",
		"a\n.\n.\r\n\r\n.\r\n": "x",
		"a\r.\r\n\r\n.\r\n":    "x",
		"\r\r\n.\r\r\n.\r\n":   "x",
		"a.\r\n\r\n.\r\n":      "x",
		".\n\r\n.\r\n":         "x",
	} {
		whole := text + behind
		for at := range len(whole) {
			here, there := net.Pipe()
			go func() {
				here.Write([]byte(whole[:at]))
				here.Write([]byte(whole[at:]))
				here.Close()
			}()
			var got bytes.Buffer
			c := wire.NewConn(there)
			if err := copyBlock(&got, c); err != nil || got.String() != text {
				t.Errorf("%q cut at %d: got %q, %v", whole, at, got.String(), err)
			}
			if rest, err := io.ReadAll(c); err != nil || string(rest) != behind {
				t.Errorf("%q cut at %d: left is %q, %v", whole, at, rest, err)
			}
		}
		here, there := net.Pipe()
		go func() { here.Write([]byte(text[:len(text)-1])); here.Close() }()
		if err := copyBlock(io.Discard, wire.NewConn(there)); err != io.ErrUnexpectedEOF {
			t.Errorf("%q cut short: %v", text, err)
		}
	}
}
