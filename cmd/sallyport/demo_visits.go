package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// The demo's names.
const (
	demoName   = "localhost"
	demoTenant = "tenant.example.net"
	demoClient = "client.example.org" // what clients call themselves
)

// visitTimeout bounds one visit in all.
const visitTimeout = 10 * time.Second

// A visitResult is a row of the table.
type visitResult struct {
	visit
	port string
	tls  *tls.ConnectionState // nil: cleartext
	seen sighting
	err  error
}

// make makes the visit and compares what the backend was told with the truth.
func (v visit) make(ctx context.Context, address string, roots *x509.CertPool, seen *sightings) visitResult {
	r := visitResult{visit: v, port: portOf(address)}
	conn, err := dialDemo(ctx, address)
	if err != nil {
		r.err = err
		return r
	}
	defer conn.Close()
	config := &tls.Config{
		RootCAs:    roots,
		ServerName: v.name,
		VerifyConnection: func(cs tls.ConnectionState) error {
			r.tls = &cs
			return nil
		},
	}
	if r.err = v.play(conn, config); r.err != nil {
		return r
	}
	var ok bool
	r.seen, ok = seen.of(ends{client: addrPort(conn.LocalAddr()), listener: addrPort(conn.RemoteAddr())})
	switch {
	case !ok:
		r.err = fmt.Errorf("no backend was told of the client %s", conn.LocalAddr())
	case r.seen.backend != v.backend:
		r.err = fmt.Errorf("arrived at backend %s instead of %s", r.seen.backend, v.backend)
	case (r.tls != nil && !v.early) != (r.seen.tls != ""):
		r.err = fmt.Errorf("the backend was told TLS %q of a session that is %s", r.seen.tls, v.how)
	case (r.tls != nil) != (v.how != "cleartext"):
		r.err = fmt.Errorf("the session should be %s", v.how)
	}
	return r
}

func dialDemo(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: visitTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(visitTimeout))
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// What an SMTP visit does besides sending a message.
const (
	startTLS = 1 << iota
	implicitTLS
	login
)

func visitSMTP(subject string, steps int) func(net.Conn, *tls.Config) error {
	return func(conn net.Conn, config *tls.Config) error {
		name := demoName
		if config.ServerName != "" {
			name = config.ServerName
		}
		if steps&implicitTLS != 0 {
			conn = tls.Client(conn, config)
		}
		c, err := smtp.NewClient(conn, name)
		if err != nil {
			return err
		}
		if err := c.Hello(demoClient); err != nil {
			return err
		}
		if steps&startTLS != 0 {
			if err := c.StartTLS(config); err != nil {
				return err
			}
		}
		if steps&login != 0 {
			if err := c.Auth(smtp.PlainAuth("", demoUser, demoPassword, name)); err != nil {
				return err
			}
		}
		if err := c.Mail("alice@example.org"); err != nil {
			return err
		}
		if err := c.Rcpt("bob@example.org"); err != nil {
			return err
		}
		w, err := c.Data()
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "From: alice@example.org\r\nTo: bob@example.org\r\nSubject: the %s message\r\n\r\nThrough the sally port.\r\n", subject)
		if err := w.Close(); err != nil {
			return err
		}
		return c.Quit()
	}
}

// visitIMAP reads what SMTP has delivered, after STARTTLS.
func visitIMAP(conn net.Conn, config *tls.Config) error {
	c, err := imapclient.NewStartTLS(conn, &imapclient.Options{TLSConfig: config})
	if err != nil {
		return err
	}
	return readMail(c)
}

// visitIMAPS does the same over implicit TLS.
func visitIMAPS(conn net.Conn, config *tls.Config) error {
	return readMail(imapclient.New(tls.Client(conn, config), nil))
}

func readMail(c *imapclient.Client) error {
	defer c.Close()
	if err := c.Login(demoUser, demoPassword).Wait(); err != nil {
		return err
	}
	box, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		return err
	}
	if box.NumMessages == 0 {
		return errors.New("the mailbox is empty: no message has arrived through the SMTP listeners")
	}
	body := &imap.FetchItemBodySection{}
	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{body}}).Collect()
	if err != nil {
		return err
	}
	if len(msgs) != 1 || !bytes.Contains(msgs[0].FindBodySection(body), []byte("Through the sally port.")) {
		return errors.New("the message that was sent is not the one in the mailbox")
	}
	return c.Logout().Wait()
}

// visitLMTP delivers a message to two recipients, each of whom has a reply of
// its own (RFC 2033, 4.2).
func visitLMTP(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(conn)
	for _, step := range []struct {
		say  string // "": nothing, the server speaks
		code int
	}{
		{"", 220}, {"LHLO " + demoClient, 250}, {"STARTTLS", 220},
		{"LHLO " + demoClient, 250},
		{"MAIL FROM:<alice@example.org>", 250},
		{"RCPT TO:<bob@example.org>", 250},
		{"RCPT TO:<carol@example.org>", 250},
		{"DATA", 354},
		{"Subject: the delivered message\r\n\r\nThrough the sally port.\r\n.", 250}, {"", 250},
		{"QUIT", 221},
	} {
		if step.say != "" {
			c.PrintfLine("%s", step.say)
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return err
		}
		if step.say == "STARTTLS" {
			c = textproto.NewConn(tls.Client(conn, config))
		}
	}
	return nil
}

// visitPOP3 reads what SMTP and LMTP have delivered, after STLS.
func visitPOP3(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(conn)
	if _, err := c.ReadLine(); err != nil {
		return err
	}
	if err := popOK(c, "STLS"); err != nil {
		return err
	}
	return popMail(textproto.NewConn(tls.Client(conn, config)))
}

// visitPOP3S does the same over implicit TLS.
func visitPOP3S(conn net.Conn, config *tls.Config) error {
	c := textproto.NewConn(tls.Client(conn, config))
	if _, err := c.ReadLine(); err != nil {
		return err
	}
	return popMail(c)
}

func popOK(c *textproto.Conn, command string) error {
	c.PrintfLine("%s", command)
	line, err := c.ReadLine()
	if err == nil && !strings.HasPrefix(line, "+OK") {
		verb, _, _ := strings.Cut(command, " ")
		err = fmt.Errorf("%s: %s", verb, line)
	}
	return err
}

func popMail(c *textproto.Conn) error {
	for _, command := range []string{"USER " + demoUser, "PASS " + demoPassword, "RETR 1"} {
		if err := popOK(c, command); err != nil {
			return err
		}
	}
	msg, err := c.ReadDotBytes()
	if err != nil {
		return err
	}
	if !bytes.Contains(msg, []byte("Through the sally port.")) {
		return errors.New("the message that was sent is not the one in the maildrop")
	}
	return popOK(c, "QUIT")
}

func visitEcho(conn net.Conn, config *tls.Config) error {
	const line = "is anybody there?\r\n"
	c := tls.Client(conn, config)
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	back, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if back != line {
		return fmt.Errorf("%q came back as %q", line, back)
	}
	return c.Close()
}

// An attack is what sallyport must refuse. No backend may hear of it.
type attack struct {
	title    string
	listener string
	// play returns the refusal, or an error when the attack was not refused.
	play func(conn net.Conn, config *tls.Config) (refusal string, err error)
}

func demoAttacks() []attack {
	password := base64.StdEncoding.EncodeToString([]byte("\x00" + demoUser + "\x00" + demoPassword))
	return []attack{
		{"command hidden behind STARTTLS (CVE-2011-0411)", "submission",
			attackLines("EHLO "+demoClient, "STARTTLS\r\nMAIL FROM:<mallory@example.org>")},
		{"login hidden behind STARTTLS", "imap",
			attackLines("a1 STARTTLS\r\na2 LOGIN mallory secret")},
		{"login hidden behind STLS", "pop3",
			attackLines("STLS\r\nUSER mallory")},
		{"password before TLS", "submission",
			attackLines("EHLO "+demoClient, "AUTH PLAIN "+password)},
		{"password before TLS", "imap",
			attackLines("a1 LOGIN " + demoUser + " " + demoPassword)},
		{"password before TLS", "pop3",
			attackLines("USER " + demoUser)},
		{"a browser's POST to the mail port (ALPACA)", "mx",
			attackLines("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nEHLO " + demoClient)},
		{"TLS of a browser on the mailbox port (ALPACA)", "imaps",
			attackTLS(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} })},
		{"TLS 1.1 and older (RFC 8996)", "imaps",
			attackTLS(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })},
	}
}

// An attackResult is a row of the second table.
type attackResult struct {
	attack
	port    string
	refusal string
	ends    ends
	err     error
}

func (a attack) make(ctx context.Context, address string, roots *x509.CertPool) attackResult {
	r := attackResult{attack: a, port: portOf(address)}
	conn, err := dialDemo(ctx, address)
	if err != nil {
		r.err = err
		return r
	}
	defer conn.Close()
	r.ends = ends{client: addrPort(conn.LocalAddr()), listener: addrPort(conn.RemoteAddr())}
	r.refusal, r.err = a.play(conn, &tls.Config{RootCAs: roots, ServerName: demoName})
	return r
}

// attackLines waits for the greeting and sends each of the lines, all at once
// what belongs to one of them, and takes the answer to the last as the verdict.
func attackLines(lines ...string) func(net.Conn, *tls.Config) (string, error) {
	return func(conn net.Conn, _ *tls.Config) (string, error) {
		r := textproto.NewReader(bufio.NewReader(conn))
		if _, err := r.ReadLine(); err != nil {
			return "", err
		}
		answer := ""
		for _, line := range lines {
			if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
				return "", err
			}
			// SMTP's EHLO has an answer of several lines.
			for more := true; more; {
				var err error
				answer, err = r.ReadLine()
				if err != nil {
					return "closed without a word", ended(err)
				}
				more = len(answer) > 3 && answer[3] == '-'
			}
		}
		for _, yes := range []string{"2", "3", "a1 OK", "+"} {
			if strings.HasPrefix(answer, yes) {
				return "", fmt.Errorf("accepted: %q", answer)
			}
		}
		return answer, nil
	}
}

// ended is nil for an error that says that the other side hung up.
func ended(err error) error {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errors.New("neither refused nor closed")
	}
	return nil
}

// attackTLS shakes hands as change says, which must fail.
func attackTLS(change func(*tls.Config)) func(net.Conn, *tls.Config) (string, error) {
	return func(conn net.Conn, config *tls.Config) (string, error) {
		change(config)
		err := tls.Client(conn, config).Handshake()
		alert, ok := errors.AsType[tls.AlertError](err)
		switch {
		case err == nil:
			return "", errors.New("the handshake went through")
		case ok:
			return strings.TrimPrefix(alert.Error(), "tls: "), nil
		}
		return strings.TrimPrefix(err.Error(), "remote error: tls: "), ended(err)
	}
}

// keyKind names the kind of a certificate's key.
func keyKind(cert *x509.Certificate) string {
	switch cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA"
	case *rsa.PublicKey:
		return "RSA"
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return cert.PublicKeyAlgorithm.String()
}
