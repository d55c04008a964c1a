package main

import (
	"crypto/tls"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
)

// An ldapMessage is the envelope of all of LDAP (RFC 4511, 4.1.1).
type ldapMessage struct {
	ID int
	Op asn1.RawValue
}

// The operations the demo knows, by their application tags.
const (
	ldapBind             = 0
	ldapBindResponse     = 1
	ldapUnbind           = 2
	ldapExtended         = 23
	ldapExtendedResponse = 24
)

// readLDAP reads one short message.
func readLDAP(r io.Reader) (m ldapMessage, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, err
	}
	if head[1] > 127 {
		return m, errors.New("the LDAP message is too long for a demo")
	}
	message := append(head[:], make([]byte, head[1])...)
	if _, err := io.ReadFull(r, message[2:]); err != nil {
		return m, err
	}
	_, err = asn1.Unmarshal(message, &m)
	return m, err
}

// writeLDAP writes an operation whose content is made of values.
func writeLDAP(w io.Writer, id, op int, values ...any) error {
	var content []byte
	for _, v := range values {
		b, err := asn1.Marshal(v)
		if err != nil {
			return err
		}
		content = append(content, b...)
	}
	message, err := asn1.Marshal(ldapMessage{id, asn1.RawValue{Class: asn1.ClassApplication, Tag: op, IsCompound: true, Bytes: content}})
	if err != nil {
		return err
	}
	_, err = w.Write(message)
	return err
}

// serveLDAP is the LDAP (RFC 4511) of an old server that lets one user bind.
func serveLDAP(conn net.Conn) {
	for {
		m, err := readLDAP(conn)
		if err != nil {
			return
		}
		switch m.Op.Tag {
		case ldapUnbind:
			return
		case ldapBind:
			var version int
			var name, password asn1.RawValue
			rest, err := asn1.Unmarshal(m.Op.Bytes, &version)
			if err == nil {
				rest, err = asn1.Unmarshal(rest, &name)
			}
			if err == nil {
				_, err = asn1.Unmarshal(rest, &password)
			}
			code := asn1.Enumerated(49) // invalidCredentials
			if err == nil && string(name.Bytes) == ldapUser && string(password.Bytes) == demoPassword {
				code = 0
			}
			err = writeLDAP(conn, m.ID, ldapBindResponse, code, []byte{}, []byte{})
			if err != nil {
				return
			}
		default: // the gateway asks what is offered: nothing
			if writeLDAP(conn, m.ID, ldapExtendedResponse, asn1.Enumerated(2), []byte{}, []byte{}) != nil {
				return
			}
		}
	}
}

const ldapUser = "cn=demo,dc=example,dc=org"

// visitLDAP binds, after StartTLS.
func visitLDAP(conn net.Conn, config *tls.Config) error {
	startTLS := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: []byte("1.3.6.1.4.1.1466.20037")}
	if err := ldapAsk(conn, 1, ldapExtended, ldapExtendedResponse, startTLS); err != nil {
		return fmt.Errorf("StartTLS: %w", err)
	}
	return bindLDAP(tls.Client(conn, config))
}

// visitLDAPS does the same over implicit TLS.
func visitLDAPS(conn net.Conn, config *tls.Config) error {
	return bindLDAP(tls.Client(conn, config))
}

func bindLDAP(conn net.Conn) error {
	password := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: []byte(demoPassword)}
	if err := ldapAsk(conn, 2, ldapBind, ldapBindResponse, 3, []byte(ldapUser), password); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return conn.Close()
}

// ldapAsk makes a request and wants success.
func ldapAsk(conn net.Conn, id, op, response int, values ...any) error {
	if err := writeLDAP(conn, id, op, values...); err != nil {
		return err
	}
	m, err := readLDAP(conn)
	if err != nil {
		return err
	}
	var code asn1.Enumerated
	if _, err := asn1.Unmarshal(m.Op.Bytes, &code); err != nil {
		return err
	}
	if m.ID != id || m.Op.Tag != response || code != 0 {
		return fmt.Errorf("answered with operation %d, result code %d", m.Op.Tag, code)
	}
	return nil
}
