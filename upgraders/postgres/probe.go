package postgres

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// probe asks as pg_isready does: a server that wants a password, or says what
// is wrong with the request, serves; one that is starting up does not. There
// is nothing to learn that a client is told before TLS.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	params := "user\x00sallyport\x00database\x00postgres\x00application_name\x00sallyport probe\x00\x00"
	message := binary.BigEndian.AppendUint32(nil, uint32(8+len(params)))
	message = append(binary.BigEndian.AppendUint32(message, 3<<16), params...)
	if _, err := link.Backend.Write(message); err != nil {
		return nil, err
	}
	first, err := link.Backend.Peek(1)
	if err != nil {
		return nil, err
	}
	switch first[0] {
	case 'R', 'v':
		return upgraders.Capabilities{}, nil
	case 'E':
		code, err := sqlstate(link.Backend)
		if err != nil {
			return nil, err
		}
		if code == "57P03" || code == "53300" {
			return nil, &upgraders.Refusal{Reply: "SQLSTATE " + code}
		}
		return upgraders.Capabilities{}, nil
	}
	return nil, fmt.Errorf("%w: not PostgreSQL", upgraders.ErrBackend)
}

// request asks a server for TLS.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	message := binary.BigEndian.AppendUint32(nil, requestLength)
	if _, err := backend.Write(binary.BigEndian.AppendUint32(message, codeSSL)); err != nil {
		return err
	}
	var answer [1]byte
	if err := backend.ReadFull(answer[:]); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return fmt.Errorf("%w: the server answers %q to SSLRequest", upgraders.ErrNotOffered, answer[0])
	}
	if backend.Pipelined() {
		// CVE-2021-23222.
		return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
	}
	return nil
}
