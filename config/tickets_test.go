package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sharedText = `state { path = "STATE" }
acme "one" {
  directory  = "https://acme.example.org/directory"
  accept_tos = true
}
tls "shared" { tickets = "shared" }
tls "more" {
  min_version = "1.3"
  tickets     = "shared"
}
tls "memory" {}
certificate "dev" {
  names       = ["localhost"]
  self_signed = true
}
backend "b" { servers = ["192.0.2.1:25"] }
listener "smtp" "mx" {
  address = [":25"]
  tls     = tls.shared
  route {
    sni     = ["a.example.org"]
    tls     = tls.more
    backend = backend.b
  }
  route {
    sni     = ["b.example.org"]
    tls     = tls.memory
    backend = backend.b
  }
  route { backend = backend.b }
}
`

// Every tls block with shared tickets has the one ring of the configuration,
// the others have none; a reload keeps the ring, with the keys in it, as long
// as store and secret stay. None of this touches the disk.
func TestSharedTickets(t *testing.T) {
	dir := t.TempDir()
	src := strings.Replace(sharedText, "STATE", dir, 1)
	load := func(src string, previous *Config) *Config {
		t.Helper()
		cfg, diags := loadText(t, "a.hcl", src, Options{Previous: previous})
		if diags.HasErrors() {
			t.Fatal(text(diags))
		}
		return cfg
	}
	first := load(src, nil)
	l := first.Gateway.Listeners[0]
	if first.Tickets == nil || l.TLS.Tickets != first.Tickets || l.Routes[0].TLS.Tickets != first.Tickets || l.Routes[1].TLS.Tickets != nil {
		t.Errorf("%p: listener %v, routes %v, %v", first.Tickets, l.TLS.Tickets, l.Routes[0].TLS.Tickets, l.Routes[1].TLS.Tickets)
	}
	o := first.Tickets.Options()
	if o.Store.String() != "directory "+filepath.Join(dir, "acme") || o.SecretFile != filepath.Join(dir, "tickets.key") || !o.Make {
		t.Errorf("%s, %+v", o.Store, o)
	}
	if second := load(strings.Replace(src, ":25\"]\n  tls", ":26\"]\n  mode = \"starttls\"\n  tls", 1), first); second.Tickets != first.Tickets {
		t.Error("a reload makes another ring")
	}
	none := load(strings.ReplaceAll(src, `"shared"`+"\n", `"memory"`+"\n"), first)
	none = load(strings.ReplaceAll(strings.ReplaceAll(src, `tickets = "shared"`, ""), `tickets     = "shared"`, ""), none)
	if none.Tickets != nil || none.Gateway.Listeners[0].TLS.Tickets != nil {
		t.Error("a ring that nobody wants")
	}

	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := strings.Replace(src, "accept_tos = true", "accept_tos = true\nstore \"dir\" {\npath = \"s\"\nsecret_file = \""+secret+"\"\n}", 1)
	other := load(elsewhere, first)
	if other.Tickets == first.Tickets {
		t.Error("another store, the same ring")
	}
	if o := other.Tickets.Options(); o.Make || o.SecretFile != secret || o.Store.String() != "directory s" {
		t.Errorf("%s, %+v", o.Store, o)
	}
	if again := load(strings.Replace(elsewhere, `path = "s"`, `path = "s2"`, 1), other); again.Tickets == other.Tickets {
		t.Error("another directory, the same ring")
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Errorf("loading wrote %v", entries)
	}

	// Two blocks of one store are one store.
	acme := src[strings.Index(src, "acme"):strings.Index(src, "tls \"shared\"")]
	if cfg := load(src+strings.Replace(acme, `"one"`, `"two"`, 1), first); cfg.Tickets != first.Tickets {
		t.Error("a second authority with the same store makes another ring")
	}
}
