package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
)

// A newsgroup keeps the latest articles of the one group of the demo.
type newsgroup struct {
	mu       sync.Mutex
	articles [][]byte
}

const (
	newsgroupName = "local.demo"
	newsgroupSize = 100
)

func (g *newsgroup) add(article []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.articles = append(g.articles, article)
	g.articles = g.articles[max(0, len(g.articles)-newsgroupSize):]
}

// article returns one by its number, from 1.
func (g *newsgroup) article(n int) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n < 1 || n > len(g.articles) {
		return nil
	}
	return g.articles[n-1]
}

func (g *newsgroup) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.articles)
}

// serve is the NNTP (RFC 3977) of an old server with one group.
func (group *newsgroup) serve(conn net.Conn) {
	c := textproto.NewConn(conn)
	c.PrintfLine("200 legacy NNTP ready")
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		verb, argument, _ := strings.Cut(line, " ")
		n, _ := strconv.Atoi(argument)
		switch verb = strings.ToUpper(verb); {
		case verb == "QUIT":
			c.PrintfLine("205 bye")
			return
		case verb == "CAPABILITIES":
			err = c.PrintfLine("101 capabilities\r\nVERSION 2\r\nREADER\r\nPOST\r\nLIST ACTIVE\r\n.")
		case verb == "MODE":
			err = c.PrintfLine("200 posting allowed")
		case verb == "LIST":
			err = c.PrintfLine("215 groups\r\n%s %d 1 y\r\n.", newsgroupName, group.size())
		case verb == "GROUP" && argument == newsgroupName:
			err = c.PrintfLine("211 %d 1 %d %s", group.size(), group.size(), newsgroupName)
		case verb == "GROUP":
			err = c.PrintfLine("411 no such group")
		case verb == "POST":
			c.PrintfLine("340 send it")
			var article []byte
			if article, err = io.ReadAll(io.LimitReader(c.DotReader(), 64<<10)); err == nil {
				group.add(article)
				err = c.PrintfLine("240 received")
			}
		case verb == "ARTICLE" && group.article(n) != nil:
			c.PrintfLine("220 %d <%d@legacy.example.org>", n, n)
			w := c.DotWriter()
			w.Write(group.article(n))
			err = w.Close()
		case verb == "ARTICLE":
			err = c.PrintfLine("423 no such article")
		default:
			err = c.PrintfLine("500 unknown command")
		}
		if err != nil {
			return
		}
	}
}

// visitNNTP posts an article, after STARTTLS.
func visitNNTP(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(conn)
	for _, step := range []struct {
		say  string // "": nothing, the server speaks
		code int
	}{
		{"", 200}, {"STARTTLS", 382},
		{"GROUP " + newsgroupName, 211},
		{"POST", 340},
		{"From: alice@example.org\r\nNewsgroups: " + newsgroupName + "\r\nSubject: the posted article\r\n\r\nThrough the sally port.\r\n.", 240},
		{"QUIT", 205},
	} {
		if step.say != "" {
			c.PrintfLine("%s", step.say)
		}
		if _, _, err := c.ReadCodeLine(step.code); err != nil {
			return err
		}
		if step.say == "STARTTLS" {
			c = textproto.NewConn(tls.Client(conn, config))
		}
	}
	return nil
}

// visitNNTPS reads it, over implicit TLS.
func visitNNTPS(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(tls.Client(conn, config))
	if _, _, err := c.ReadCodeLine(200); err != nil {
		return err
	}
	c.PrintfLine("ARTICLE 1")
	if _, _, err := c.ReadCodeLine(220); err != nil {
		return err
	}
	article, err := c.ReadDotBytes()
	if err != nil {
		return err
	}
	if !strings.Contains(string(article), "Through the sally port.") {
		return errors.New("the article that was posted is not the one in the group")
	}
	c.PrintfLine("QUIT")
	if _, _, err := c.ReadCodeLine(205); err != nil {
		return fmt.Errorf("QUIT: %w", err)
	}
	return nil
}
