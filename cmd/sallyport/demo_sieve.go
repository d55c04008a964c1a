package main

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
)

// A scriptBox keeps the one user's latest Sieve script.
type scriptBox struct {
	mu     sync.Mutex
	script string
}

const maxScript = 64 << 10

// serve is the ManageSieve (RFC 5804) of an old server, for one script.
func (box *scriptBox) serve(conn net.Conn) {
	c := textproto.NewConn(conn)
	const capabilities = "\"IMPLEMENTATION\" \"legacy\"\r\n\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\n\"VERSION\" \"1.0\"\r\nOK"
	c.PrintfLine(capabilities)
	loggedIn := false
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		verb, arguments, _ := strings.Cut(line, " ")
		switch verb = strings.ToUpper(verb); {
		case verb == "LOGOUT":
			c.PrintfLine("OK")
			return
		case verb == "CAPABILITY":
			err = c.PrintfLine(capabilities)
		case verb == "NOOP":
			err = c.PrintfLine("OK")
		case verb == "AUTHENTICATE" && arguments == `"PLAIN" "`+demoPlain()+`"`:
			loggedIn = true
			err = c.PrintfLine("OK")
		case !loggedIn:
			err = c.PrintfLine("NO \"Log in first\"")
		case verb == "PUTSCRIPT":
			err = box.put(c, arguments)
		case verb == "GETSCRIPT":
			box.mu.Lock()
			script := box.script
			box.mu.Unlock()
			err = c.PrintfLine("{%d}\r\n%s\r\nOK", len(script), script)
		default:
			err = c.PrintfLine("NO \"Unknown command\"")
		}
		if err != nil {
			return
		}
	}
}

// put takes the literal at the end of a command.
func (b *scriptBox) put(c *textproto.Conn, arguments string) error {
	_, literal, _ := strings.Cut(arguments, "{")
	size, err := strconv.Atoi(strings.TrimSuffix(literal, "+}"))
	if err != nil || size < 0 || size > maxScript {
		c.PrintfLine("BYE \"Not a literal\"")
		return io.EOF
	}
	script := make([]byte, size+len("\r\n"))
	if _, err := io.ReadFull(c.R, script); err != nil {
		return err
	}
	b.mu.Lock()
	b.script = string(script[:size])
	b.mu.Unlock()
	return c.PrintfLine("OK")
}

// demoPlain is the initial response of SASL's PLAIN.
func demoPlain() string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + demoUser + "\x00" + demoPassword))
}

// visitSieve stores a script and reads it back, after STARTTLS.
func visitSieve(conn net.Conn, config *tls.Config) error {
	const script = "if header :contains \"Subject\" \"sally\" { keep; }"
	c := textproto.NewConn(conn)
	for _, step := range []string{
		"", "STARTTLS", "", "CAPABILITY",
		`AUTHENTICATE "PLAIN" "` + demoPlain() + `"`,
		fmt.Sprintf("PUTSCRIPT \"demo\" {%d+}\r\n%s", len(script), script),
	} {
		if err := sieveOK(c, step); err != nil {
			return err
		}
		if step == "STARTTLS" {
			// The capability list comes again, unasked.
			c = textproto.NewConn(tls.Client(conn, config))
		}
	}
	c.PrintfLine("GETSCRIPT \"demo\"")
	for _, want := range []string{fmt.Sprintf("{%d}", len(script)), script, "OK"} {
		got, err := c.ReadLine()
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the script that was stored is not the one that came back: %q", got)
		}
	}
	return sieveOK(c, "LOGOUT")
}

// sieveOK says something, unless the server speaks first, and reads up to an OK.
func sieveOK(c *textproto.Conn, line string) error {
	if line != "" {
		c.PrintfLine("%s", line)
	}
	for {
		answer, err := c.ReadLine()
		switch status, _, _ := strings.Cut(answer, " "); {
		case err != nil:
			return err
		case status == "OK":
			return nil
		case status == "NO" || status == "BYE":
			return fmt.Errorf("%.20s is answered %q", line, answer)
		}
	}
}
