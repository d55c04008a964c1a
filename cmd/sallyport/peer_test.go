package main

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// A character is how a server of the scripts answers: its greeting, and by the
// first word of a command. TLS is begun behind "220 go", "OK go" and the like.
type character struct {
	greeting string
	answers  map[string]string
}

// characters are the servers that scripts start with peer.
var characters = map[string]character{
	"smtp-relay": {"220 relay", map[string]string{"AUTH": "503 5.5.1 not enabled"}},
	"smtp-strict": {"220 strict", map[string]string{
		"AUTH": "503 5.5.1 not enabled",
		"RCPT": "554 5.7.1 Relay access denied",
	}},
	"smtp-xclient": {"220 xclient", map[string]string{
		"EHLO": "250-xclient\r\n250 XCLIENT NAME ADDR",
		"AUTH": "503 5.5.1 not enabled",
		"RCPT": "554 5.7.1 Relay access denied",
	}},
	"smtp-rude": {"554 \x1b[2Jgo away", nil},
	// As a firewall leaves it that wants to read along.
	"smtp-mangled": {"220 mangled", map[string]string{"EHLO": "250-mangled\r\n250-XXXXXXXA\r\n250 SIZE"}},
	"smtp-plain":   {"220 plain", map[string]string{"EHLO": "250-plain\r\n250 SIZE"}},
	"imap-logindisabled": {"* OK ready", map[string]string{
		"CAPABILITY": "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK done",
		"":           "TAG OK done",
	}},
}

// cmdPeer starts a server and sets a variable, named like it in capitals, to
// its address: peer NAME CHARACTER
func cmdPeer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: peer name character")
	}
	c, ok := characters[args[1]]
	if !ok {
		ts.Fatalf("there is no character %s", args[1])
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { c.serve(conn) })
		}
	})
	ts.Defer(func() {
		ln.Close()
		sessions.Wait()
	})
	ts.Setenv(strings.ToUpper(args[0]), ln.Addr().String())
}

// serve answers until the client leaves.
func (c character) serve(conn net.Conn) {
	defer conn.Close()
	io.WriteString(conn, c.greeting+"\r\n")
	in := bufio.NewScanner(conn)
	for in.Scan() {
		tag, rest, _ := strings.Cut(in.Text(), " ")
		word := tag
		if strings.HasPrefix(c.greeting, "*") {
			word, _, _ = strings.Cut(rest, " ")
		}
		answer, ok := c.answers[strings.ToUpper(word)]
		if !ok {
			if answer, ok = c.answers[""]; !ok {
				answer = "250 OK"
			}
		}
		if _, err := io.WriteString(conn, strings.ReplaceAll(answer, "TAG", tag)+"\r\n"); err != nil {
			return
		}
	}
}
