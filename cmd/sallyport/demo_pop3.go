package main

import (
	"bytes"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A maildrop keeps the latest messages for POP3.
type maildrop struct {
	mu       sync.Mutex
	messages [][]byte
}

const maildropSize = 100

func (m *maildrop) add(message []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, message)
	m.messages = m.messages[max(0, len(m.messages)-maildropSize):]
}

func (m *maildrop) snapshot() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages)
}

// serve is the POP3 (RFC 1939) of an old server, which a user can read his
// mail by, and not delete it.
func (drop *maildrop) serve(conn net.Conn) {
	c := textproto.NewConn(conn)
	c.PrintfLine("+OK legacy POP3 ready")
	var messages [][]byte
	user, loggedIn := "", false
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		verb, argument, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		n, _ := strconv.Atoi(argument)
		switch {
		case verb == "QUIT":
			c.PrintfLine("+OK bye")
			return
		case verb == "CAPA":
			err = c.PrintfLine("+OK\r\nUSER\r\nUIDL\r\n.")
		case verb == "USER":
			user = argument
			err = c.PrintfLine("+OK")
		case verb == "PASS" && user == demoUser && argument == demoPassword:
			messages, loggedIn = drop.snapshot(), true
			err = c.PrintfLine("+OK %d messages", len(messages))
		case verb == "PASS":
			err = c.PrintfLine("-ERR wrong user or password")
		case !loggedIn:
			err = c.PrintfLine("-ERR log in first")
		case verb == "STAT":
			err = c.PrintfLine("+OK %d %d", len(messages), len(bytes.Join(messages, nil)))
		case (verb == "LIST" || verb == "UIDL") && argument == "":
			var list strings.Builder
			for i, m := range messages {
				fmt.Fprintf(&list, "\r\n%d %d", i+1, len(m))
			}
			err = c.PrintfLine("+OK%s\r\n.", list.String())
		case n < 1 || n > len(messages):
			err = c.PrintfLine("-ERR no such message")
		case verb == "LIST" || verb == "UIDL":
			err = c.PrintfLine("+OK %d %d", n, len(messages[n-1]))
		case verb == "RETR":
			c.PrintfLine("+OK")
			w := c.DotWriter()
			w.Write(messages[n-1])
			err = w.Close()
		default:
			err = c.PrintfLine("-ERR unknown command")
		}
		if err != nil {
			return
		}
	}
}
