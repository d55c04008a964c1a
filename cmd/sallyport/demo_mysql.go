package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
)

// What server and client of the demo are capable of: protocol 4.1, and SSL for
// the client.
const (
	mysqlFlags  = "\x00\x82\x00\x00" // PROTOCOL_41, SECURE_CONNECTION
	mysqlSSL    = "\x00\x8a\x00\x00" // and SSL
	mysqlOK     = "\x00\x00\x00\x02\x00\x00\x00"
	mysqlEnd    = "\xfe\x00\x00\x02\x00"
	mysqlAnswer = "through the sally port"
)

// A mysqlConn reads and writes packets, and counts them.
type mysqlConn struct {
	io.ReadWriter
	seq byte
}

func (c *mysqlConn) read() (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return "", err
	}
	if head[2] > 0 || head[3] != c.seq {
		return "", fmt.Errorf("packet %d of MySQL's where %d is due, or too long for a demo", head[3], c.seq)
	}
	c.seq++
	body := make([]byte, int(head[0])|int(head[1])<<8)
	_, err := io.ReadFull(c, body)
	return string(body), err
}

func (c *mysqlConn) write(bodies ...string) error {
	var b []byte
	for _, body := range bodies {
		b = append(b, byte(len(body)), byte(len(body)>>8), 0, c.seq)
		b = append(b, body...)
		c.seq++
	}
	_, err := c.Write(b)
	return err
}

// serveMySQL is an old server that lets everybody in and has one answer.
func serveMySQL(conn net.Conn) {
	c := &mysqlConn{ReadWriter: conn}
	c.write("\x0a5.0.0-legacy\x00\x01\x00\x00\x0012345678\x00" + mysqlFlags[:2] + "\x21\x02\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "abcdefghijkl\x00")
	if _, err := c.read(); err != nil || c.write(mysqlOK) != nil {
		return
	}
	for {
		c.seq = 0
		command, err := c.read()
		if err != nil || command == "" || command[0] != 3 { // COM_QUERY
			return
		}
		// One column of text, one row.
		column := "\x03def\x00\x00\x00\x06answer\x00\x0c\x21\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00"
		if c.write("\x01", column, mysqlEnd, string(rune(len(mysqlAnswer)))+mysqlAnswer, mysqlEnd) != nil {
			return
		}
	}
}

// visitMySQL asks a question, after SSLRequest.
func visitMySQL(conn net.Conn, config *tls.Config) error {
	c := &mysqlConn{ReadWriter: conn}
	if _, err := c.read(); err != nil { // the greeting
		return err
	}
	about := mysqlSSL + "\x00\x00\x01\x00\x21" + string(make([]byte, 23))
	if err := c.write(about); err != nil {
		return err
	}
	secured := tls.Client(conn, config)
	c.ReadWriter = secured
	if err := c.write(about + demoUser + "\x00\x00"); err != nil {
		return err
	}
	if ok, err := c.read(); err != nil || ok != mysqlOK {
		return fmt.Errorf("the login is answered %q, %w", ok, err)
	}
	c.seq = 0
	if err := c.write("\x03select answer"); err != nil {
		return err
	}
	var packets [5]string
	for i := range packets {
		var err error
		if packets[i], err = c.read(); err != nil {
			return err
		}
	}
	if packets[3] != string(rune(len(mysqlAnswer)))+mysqlAnswer {
		return errors.New("the answer is not the server's")
	}
	c.seq = 0
	if err := c.write("\x01"); err != nil { // COM_QUIT
		return err
	}
	return secured.Close()
}
