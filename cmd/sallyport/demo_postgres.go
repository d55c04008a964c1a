package main

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// What opens a connection of PostgreSQL's protocol, version 3.
const (
	postgresVersion    = 3 << 16
	postgresSSLRequest = 1234<<16 | 5679
	postgresAnswer     = "through the sally port"
)

// readPostgres reads one message after its type: a length that counts itself,
// and the body.
func readPostgres(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > 4096 {
		return nil, errors.New("the PostgreSQL message is too long for a demo")
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(r, body)
	return body, err
}

// postgresMessage makes a message; kind 0 is one of those that open.
func postgresMessage(kind byte, body string) []byte {
	var m []byte
	if kind != 0 {
		m = append(m, kind)
	}
	m = binary.BigEndian.AppendUint32(m, uint32(4+len(body)))
	return append(m, body...)
}

// servePostgres is an old server that lets everybody in and has one answer.
func servePostgres(conn net.Conn) {
	body, err := readPostgres(conn)
	if err != nil || len(body) < 4 || binary.BigEndian.Uint32(body) != postgresVersion {
		return
	}
	ready := postgresMessage('Z', "I")
	conn.Write(append(postgresMessage('R', "\x00\x00\x00\x00"), ready...))
	for {
		var kind [1]byte
		if _, err := io.ReadFull(conn, kind[:]); err != nil {
			return
		}
		if _, err := readPostgres(conn); err != nil || kind[0] != 'Q' {
			return
		}
		// One column of text, one row.
		answer := postgresMessage('T', "\x00\x01answer\x00"+"\x00\x00\x00\x00\x00\x00"+"\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00")
		answer = append(answer, postgresMessage('D', "\x00\x01\x00\x00\x00"+string(rune(len(postgresAnswer)))+postgresAnswer)...)
		answer = append(answer, postgresMessage('C', "SELECT 1\x00")...)
		if _, err := conn.Write(append(answer, ready...)); err != nil {
			return
		}
	}
}

// visitPostgres asks a question, after SSLRequest.
func visitPostgres(conn net.Conn, config *tls.Config) error {
	if _, err := conn.Write(postgresMessage(0, string(binary.BigEndian.AppendUint32(nil, postgresSSLRequest)))); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return fmt.Errorf("SSLRequest is answered %q", answer)
	}
	c := tls.Client(conn, config)
	version := string(binary.BigEndian.AppendUint32(nil, postgresVersion))
	if _, err := c.Write(postgresMessage(0, version+"user\x00"+demoUser+"\x00\x00")); err != nil {
		return err
	}
	if _, err := untilReady(c); err != nil {
		return err
	}
	if _, err := c.Write(postgresMessage('Q', "select answer\x00")); err != nil {
		return err
	}
	row, err := untilReady(c)
	if err != nil {
		return err
	}
	if len(row) < 6 || string(row[6:]) != postgresAnswer {
		return fmt.Errorf("the answer is %q", row)
	}
	if _, err := c.Write(postgresMessage('X', "")); err != nil {
		return err
	}
	return c.Close()
}

// untilReady reads up to ReadyForQuery and returns the last row.
func untilReady(r io.Reader) (row []byte, err error) {
	for {
		var kind [1]byte
		if _, err := io.ReadFull(r, kind[:]); err != nil {
			return nil, err
		}
		body, err := readPostgres(r)
		switch {
		case err != nil:
			return nil, err
		case kind[0] == 'E':
			return nil, fmt.Errorf("refused: %q", body)
		case kind[0] == 'D':
			row = body
		case kind[0] == 'Z':
			return row, nil
		}
	}
}
