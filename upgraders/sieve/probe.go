package sieve

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// maxList bounds the lines of a capability list.
const maxList = 100

// A referral is a greeting that sends clients to another server (RFC 5804,
// 1.3). It is passed on as it is: the next server would say the same.
type referral struct{ line []byte }

func (r *referral) Error() string { return "the backend refers to another server" }
func (r *referral) Unwrap() error { return upgraders.ErrBackend }

// introduce reads the greeting and sends the client facts that are configured.
// It returns the capability list that is then true, with its status.
func introduce(link *upgraders.Link) ([]response, error) {
	list, err := readList(link.Backend)
	if err != nil || !link.Forward.XCLIENT {
		return list, tryNext(err)
	}
	if !has(list, "XCLIENT") {
		// Without client facts the backend would take every client for the
		// gateway, and trust it as such.
		link.Log("the backend does not offer XCLIENT to the gateway: trust its address there (Dovecot: login_trusted_networks), or use PROXY (send = \"proxy-v2\")")
		return nil, fmt.Errorf("%w: XCLIENT is not offered", upgraders.ErrTryNext)
	}
	if _, err = ask(link.Backend, xclient(link.Facts)); err == nil {
		list, err = ask(link.Backend, "CAPABILITY")
	}
	return list, tryNext(err)
}

// xclient is Dovecot's command.
func xclient(f upgraders.Facts) string {
	words := []string{"XCLIENT"}
	add := func(addr, port string, a netip.AddrPort) {
		if a.IsValid() {
			words = append(words, addr+"="+a.Addr().Unmap().WithZone("").String(), fmt.Sprintf("%s=%d", port, a.Port()))
		}
	}
	add("ADDR", "PORT", f.Client)
	return strings.Join(append(words, fmt.Sprintf("TTL=%d", f.TTL)), " ")
}

// ask sends a command and reads its response, which must be OK.
func ask(backend *wire.Conn, command string) ([]response, error) {
	if err := upgraders.Say(backend, command); err != nil {
		return nil, err
	}
	return readList(backend)
}

// readList reads up to the status of a response, which must be OK.
func readList(backend *wire.Conn) ([]response, error) {
	var list []response
	for range maxList {
		r, err := readResponse(backend, func() error { return nil })
		if err != nil {
			return nil, cutShort(err)
		}
		list = append(list, r)
		switch status := r.status(); {
		case status == "OK" && backend.Pipelined():
			// It would be taken for the answer to what the client says next;
			// and behind a go-ahead, for something said in TLS (CVE-2021-38371).
			return nil, fmt.Errorf("%w: it speaks without being asked", upgraders.ErrBackend)
		case status == "OK":
			return list, nil
		case status == "BYE" && r.code() == "REFERRAL":
			return nil, &referral{r.line}
		case status != "":
			return nil, &upgraders.Refusal{Reply: r.words()}
		}
	}
	return nil, fmt.Errorf("%w: a capability list of more than %d lines", upgraders.ErrBackend, maxList)
}

// tryNext marks an error as one of this server alone.
func tryNext(err error) error {
	if _, final := err.(*referral); err == nil || final {
		return err
	}
	return fmt.Errorf("%w: %w", upgraders.ErrTryNext, err)
}

func has(list []response, capability string) bool {
	for _, r := range list {
		if r.status() == "" && strings.EqualFold(r.tokens[0].text, capability) {
			return true
		}
	}
	return false
}

// probe takes the capability list from the greeting, as a session in TLS would.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	list, err := introduce(link)
	if err != nil {
		return nil, err
	}
	// The answer is known; a server that hangs up on LOGOUT has given it.
	ask(link.Backend, "LOGOUT")
	return capabilities(list), nil
}

// capabilities returns the lines of a list, each as name, blank and value.
func capabilities(list []response) upgraders.Capabilities {
	caps := upgraders.Capabilities{}
	for _, r := range list {
		if r.status() != "" {
			continue
		}
		line, value, hasValue := r.capability()
		if hasValue {
			line += " " + value
		}
		if !strings.ContainsAny(line, "\r\n\x00") && !strings.HasPrefix(line, " ") {
			caps = append(caps, line)
		}
	}
	return caps
}

// request asks a server for TLS: RFC 5804, 2.2.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	if _, err := readList(backend); err != nil {
		return notOffered(err)
	}
	_, err := ask(backend, "STARTTLS")
	return notOffered(err)
}

// notOffered makes a refusal one of TLS.
func notOffered(err error) error {
	if r, ok := err.(*upgraders.Refusal); ok {
		return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, r.Reply)
	}
	if r, ok := err.(*referral); ok {
		return fmt.Errorf("%w: %w", upgraders.ErrNotOffered, r)
	}
	return err
}
