package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
)

// serveIRC is the IRC (RFC 1459) of an old server where everybody is alone.
func serveIRC(conn net.Conn) {
	c := textproto.NewConn(conn)
	nick := ""
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		verb, argument, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "QUIT":
			c.PrintfLine("ERROR :bye")
			return
		case "NICK":
			nick = argument
		case "USER":
			err = c.PrintfLine(":legacy.example.org 001 %s :Welcome", nick)
		case "PING":
			err = c.PrintfLine(":legacy.example.org PONG legacy.example.org %s", argument)
		case "PRIVMSG":
			err = c.PrintfLine(":%s PRIVMSG %s", nick, argument)
		case "CAP":
			err = c.PrintfLine(":legacy.example.org CAP * LS :")
		}
		if err != nil {
			return
		}
	}
}

// visitIRC registers and talks, after STARTTLS.
func visitIRC(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(conn)
	if err := ircSay(c, " 670 ", "STARTTLS"); err != nil {
		return err
	}
	return chat(textproto.NewConn(tls.Client(conn, config)))
}

// visitIRCS does the same over implicit TLS.
func visitIRCS(conn net.Conn, config *tls.Config) error {
	return chat(textproto.NewConn(tls.Client(conn, config)))
}

func chat(c *textproto.Conn) error {
	if err := ircSay(c, " 001 demo ", "NICK demo", "USER demo 0 * :Demo"); err != nil {
		return err
	}
	if err := ircSay(c, "PRIVMSG demo :through the sally port", "PRIVMSG demo :through the sally port"); err != nil {
		return err
	}
	return ircSay(c, "ERROR ", "QUIT")
}

// ircSay says something and reads up to what holds the answer.
func ircSay(c *textproto.Conn, answer string, lines ...string) error {
	c.PrintfLine("%s", strings.Join(lines, "\r\n"))
	for range 50 {
		line, err := c.ReadLine()
		switch {
		case err != nil:
			return fmt.Errorf("%.20s: %w", lines[0], err)
		case strings.Contains(line, answer):
			return nil
		}
	}
	return errors.New("too many lines for a demo")
}
