package main

import (
	"bufio"
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"strings"
)

// serveXMPP is the XMPP (RFC 6120) of an old server that believes everybody, and
// where everybody writes to himself.
func serveXMPP(conn net.Conn) {
	in := xml.NewDecoder(conn)
	for {
		token, err := in.Token()
		if err != nil {
			return
		}
		e, begins := token.(xml.StartElement)
		if end, ends := token.(xml.EndElement); ends && end.Name.Local == "stream" {
			io.WriteString(conn, "</stream:stream>")
			return
		}
		if !begins {
			continue
		}
		switch e.Name.Local {
		case "stream":
			_, err = io.WriteString(conn, "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='legacy.example.org' id='1' version='1.0'>"+
				"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>")
		case "auth":
			_, err = io.WriteString(conn, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		case "result":
			_, err = io.WriteString(conn, "<db:result xmlns:db='jabber:server:dialback' type='valid'/>")
		case "message":
			var m struct {
				Body string `xml:"body"`
			}
			if err = in.DecodeElement(&m, &e); err == nil {
				_, err = fmt.Fprintf(conn, "<message><body>%s</body></message>", m.Body)
			}
		}
		if err != nil {
			return
		}
	}
}

// A demoStream is a stream of XMPP, as its client sees it.
type demoStream struct {
	conn    net.Conn
	in      *bufio.Reader
	content string // "client", or "server"
}

func newDemoStream(conn net.Conn, content string) *demoStream {
	return &demoStream{conn, bufio.NewReader(conn), content}
}

// say says something and reads up to the end of the answer.
func (s *demoStream) say(text, answer string) error {
	if _, err := io.WriteString(s.conn, text); err != nil {
		return err
	}
	var heard strings.Builder
	for !strings.HasSuffix(heard.String(), answer) {
		b, err := s.in.ReadByte()
		if err != nil || heard.Len() > 4<<10 {
			return fmt.Errorf("%q where %s is due: %w", heard.String(), answer, err)
		}
		heard.WriteByte(b)
	}
	return nil
}

func (s *demoStream) open() error {
	return s.say("<?xml version='1.0'?>\n<stream:stream to='"+demoName+"' version='1.0' xmlns='jabber:"+s.content+"' xmlns:stream='http://etherx.jabber.org/streams'>", "</stream:features>")
}

// visitXMPP asks for TLS, then lets talk talk.
func visitXMPP(content string, talk func(*demoStream) error) func(net.Conn, *tls.Config) error {
	return func(conn net.Conn, config *tls.Config) error {
		s := newDemoStream(conn, content)
		if err := s.open(); err != nil {
			return err
		}
		if err := s.say("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"); err != nil {
			return err
		}
		return talk(newDemoStream(tls.Client(conn, config), content))
	}
}

// visitXMPPS does the same over implicit TLS.
func visitXMPPS(content string, talk func(*demoStream) error) func(net.Conn, *tls.Config) error {
	return func(conn net.Conn, config *tls.Config) error {
		return talk(newDemoStream(tls.Client(conn, config), content))
	}
}

// talkXMPP logs in and writes.
func talkXMPP(s *demoStream) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGRlbW8AZGVtbw==</auth>", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"); err != nil {
		return err
	}
	if err := s.open(); err != nil {
		return err
	}
	return writeXMPP(s)
}

// talkDialback says who it is as a server does that has no certificate, and
// writes.
func talkDialback(s *demoStream) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := s.say("<db:result xmlns:db='jabber:server:dialback' from='far.example.net' to='"+demoName+"'>key</db:result>", " type='valid'/>"); err != nil {
		return err
	}
	return writeXMPP(s)
}

func writeXMPP(s *demoStream) error {
	if err := s.say("<message><body>through the sally port</body></message>", "through the sally port</body></message>"); err != nil {
		return err
	}
	return s.say("</stream:stream>", "</stream:stream>")
}
