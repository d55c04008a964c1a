package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// A fileStore keeps the latest file for FTP.
type fileStore struct {
	mu   sync.Mutex
	file []byte
}

const fileSize = 1 << 20

// serve is the FTP (RFC 959) of an old server that has one file, and no
// secrets.
func (f *fileStore) serve(conn net.Conn) {
	c := textproto.NewConn(conn)
	c.PrintfLine("220 legacy FTP ready")
	var data net.Listener
	defer func() {
		if data != nil {
			data.Close()
		}
	}()
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(line, " ")
		switch verb = strings.ToUpper(verb); {
		case verb == "QUIT":
			c.PrintfLine("221 bye")
			return
		case verb == "FEAT":
			err = c.PrintfLine("211-features\r\n SIZE\r\n211 end")
		case verb == "USER":
			err = c.PrintfLine("331 password?")
		case verb == "PASS":
			err = c.PrintfLine("230 welcome")
		case verb == "TYPE":
			err = c.PrintfLine("200 ok")
		case verb == "PASV":
			if data != nil {
				data.Close()
			}
			if data, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
				port := data.Addr().(*net.TCPAddr).Port
				err = c.PrintfLine("227 entering passive mode (127,0,0,1,%d,%d)", port>>8, port&0xff)
			}
		case (verb == "STOR" || verb == "RETR") && data != nil:
			c.PrintfLine("150 go on")
			if f.transfer(data, verb == "STOR") != nil {
				err = c.PrintfLine("426 the data connection broke")
			} else {
				err = c.PrintfLine("226 done")
			}
			data = nil
		default:
			err = c.PrintfLine("502 unknown command")
		}
		if err != nil {
			return
		}
	}
}

// transfer moves the file on the one connection that a listener takes.
func (f *fileStore) transfer(ln net.Listener, store bool) error {
	defer ln.Close()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	f.mu.Lock()
	defer f.mu.Unlock()
	if !store {
		_, err = conn.Write(f.file)
		return err
	}
	file, err := io.ReadAll(io.LimitReader(conn, fileSize))
	if err == nil {
		f.file = file
	}
	return err
}

// visitFTP uploads a file, after AUTH TLS.
func visitFTP(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(conn)
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	if err := askFTP(c, 234, "AUTH TLS"); err != nil {
		return err
	}
	config = config.Clone()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // data connections resume the session
	c = textproto.NewConn(tls.Client(conn, config))
	for _, line := range []string{"PBSZ 0", "PROT P"} {
		if err := askFTP(c, 200, line); err != nil {
			return err
		}
	}
	data, err := loginFTP(c, conn, config, "STOR a.txt")
	if err != nil {
		return err
	}
	if _, err := io.WriteString(data, "Through the sally port.\n"); err != nil {
		return err
	}
	if err := data.Close(); err != nil {
		return err
	}
	return leaveFTP(c)
}

// visitFTPS reads it, over implicit TLS.
func visitFTPS(conn net.Conn, config *tls.Config) error {
	config = config.Clone()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	c := textproto.NewConn(tls.Client(conn, config))
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	data, err := loginFTP(c, conn, config, "RETR a.txt")
	if err != nil {
		return err
	}
	defer data.Close()
	file, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	if string(file) != "Through the sally port.\n" {
		return fmt.Errorf("the file that came down is not the one that went up: %q", file)
	}
	return leaveFTP(c)
}

func askFTP(c *textproto.Conn, code int, line string) error {
	c.PrintfLine("%s", line)
	_, _, err := c.ReadResponse(code)
	return err
}

// loginFTP logs in and begins a transfer.
func loginFTP(c *textproto.Conn, control net.Conn, config *tls.Config, transfer string) (net.Conn, error) {
	if err := askFTP(c, 331, "USER "+demoUser); err != nil {
		return nil, err
	}
	if err := askFTP(c, 230, "PASS "+demoPassword); err != nil {
		return nil, err
	}
	c.PrintfLine("EPSV")
	_, reply, err := c.ReadResponse(229)
	if err != nil {
		return nil, err
	}
	var port int
	if _, err := fmt.Sscanf(reply[max(0, strings.Index(reply, "(")):], "(|||%d|)", &port); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(control.RemoteAddr().String())
	if err != nil {
		return nil, err
	}
	data, err := net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(port)), 10*time.Second)
	if err != nil {
		return nil, err
	}
	data.SetDeadline(time.Now().Add(10 * time.Second))
	return tls.Client(data, config), askFTP(c, 150, transfer)
}

func leaveFTP(c *textproto.Conn) error {
	if _, _, err := c.ReadResponse(226); err != nil {
		return err
	}
	return askFTP(c, 221, "QUIT")
}
