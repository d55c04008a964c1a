package ftp

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// probe asks for the list of features, as a session in TLS would.
func probe(_ context.Context, link *upgraders.Link) (upgraders.Capabilities, error) {
	if _, err := greet(link.Backend); err != nil {
		return nil, err
	}
	answer, n, err := ask(link.Backend, "FEAT")
	if err != nil {
		return nil, err
	}
	capabilities := upgraders.Capabilities{}
	if n == 211 && len(answer) > 2 {
		for _, line := range answer[1 : len(answer)-1] {
			if feature := featureOf(line); feature != "" {
				capabilities = append(capabilities, feature)
			}
		}
	}
	// The answer is known; a server that hangs up on QUIT has given it.
	ask(link.Backend, "QUIT")
	return capabilities, nil
}

// auditUser has no account anywhere, and no password is sent for it.
const auditUser = "sallyport-audit"

// audit looks for what would keep clients from logging in, or from getting at
// their data.
func audit(_ context.Context, link *upgraders.Link, told upgraders.Told) (findings []upgraders.Finding, err error) {
	if _, err := greet(link.Backend); err != nil {
		return nil, err
	}
	if link.BackendTLS {
		if err := private(link.Backend); err != nil {
			findings = append(findings, upgraders.Finding{
				Severity: upgraders.Wrong,
				What:     "does not protect data connections: " + err.Error(),
				Mend:     "allow PROT P there (vsftpd: ssl_enable; ProFTPD: TLSRequired), or take tls out of the backend",
			})
		}
	}
	answer, n, err := ask(link.Backend, "USER "+auditUser)
	if err != nil {
		return nil, err
	}
	if n/100 == 5 && !link.BackendTLS {
		findings = append(findings, upgraders.Finding{
			Severity: upgraders.Wrong,
			What:     fmt.Sprintf("refuses USER in cleartext: %.200q", answer[0]),
			Mend:     "have it serve sessions without TLS (vsftpd: force_local_logins_ssl = NO; ProFTPD: TLSRequired off; Pure-FTPd: TLS 1), or write tls { mode = \"starttls\" } in the backend",
		})
	}
	if told.Proxied {
		findings = append(findings, upgraders.Finding{
			Severity: upgraders.Doubtful,
			What:     "is told of each client's address, and sees data connections come from the gateway's",
			Mend:     "allow that there (ProFTPD: AllowForeignAddress; vsftpd: pasv_promiscuous = YES), or write send = \"none\"",
		})
	}
	ask(link.Backend, "QUIT")
	return findings, nil
}

// request asks a server for TLS: RFC 4217, 4.
func request(_ context.Context, backend *wire.Conn, _ string) error {
	greeting, n, err := readReply(backend)
	if err == nil && n != 220 {
		err = fmt.Errorf("%w: %s", upgraders.ErrNotOffered, clip(greeting[0]))
	}
	if err == nil && backend.Pipelined() {
		// It would be taken for the answer to AUTH.
		err = fmt.Errorf("%w: it speaks without being asked", upgraders.ErrBackend)
	}
	if err != nil {
		return err
	}
	answer, n, err := ask(backend, "AUTH TLS")
	switch {
	case err != nil:
		return err
	case n != 234:
		return fmt.Errorf("%w: %s", upgraders.ErrNotOffered, clip(answer[0]))
	case backend.Pipelined():
		// CVE-2021-38371, in the other direction.
		return fmt.Errorf("%w: bytes behind the go-ahead for TLS", upgraders.ErrBackend)
	}
	return nil
}
