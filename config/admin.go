package config

import "path/filepath"

type adminBlock struct {
	block
	Address attr[bind]   `hcl:"address,optional" unset:"none" doc:"where /metrics, /healthz and /readyz are served: read only, in cleartext, to whoever can connect"`
	Control attr[string] `hcl:"control,optional" unset:"control.sock in state.path" doc:"path of the socket through which commands reach a running gateway; only root and the gateway's own user may"`
}

type stateBlock struct {
	block
	Path attr[string] `hcl:"path,optional" default:"/var/lib/sallyport" doc:"directory of what must outlive a restart; a change needs one"`
}

func (l *loader) admin(b *adminBlock, state string) Admin {
	control := filepath.Join(state, "control.sock")
	if b.Control.good() {
		control = l.path(b.Control.Value)
	}
	// sockaddr_un has room for 107 bytes and a NUL.
	if len(control) > 107 {
		at := b.Control.At
		if !b.Control.written {
			at = l.root.State.Path.At
		}
		l.errorf(at, "Path too long for a socket", "%s has %d bytes, and the path of a socket has at most 107: write a shorter admin.control.", control, len(control))
	}
	return Admin{Address: string(b.Address.Value), Control: control}
}

type resolverBlock struct {
	block
	Address attr[server] `hcl:"address,optional" unset:"the system's resolvers" doc:"host:port of the DNS server to ask"`
	TrustAD attr[bool]   `hcl:"trust_ad,optional" default:"false" doc:"believe its DNSSEC verdict, which only a resolver on this machine deserves"`
}
