package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/certs"
)

const selfSignedText = `certificate "dev" {
  names       = [NAMES]
  self_signed = true
}
backend "b" { servers = ["192.0.2.1:25"] }
listener "tcp" "l" {
  address = [":2007"]
  backend = backend.b
}
`

// A self-signed certificate outlives a reload that does not change its block:
// clients may have pinned it.
func TestSelfSignedOutlivesReload(t *testing.T) {
	leaf := func(names string, previous *Config) (*Config, string) {
		cfg, diags := loadText(t, "a.hcl", strings.Replace(selfSignedText, "NAMES", names, 1), Options{Previous: previous})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		cert, err := cfg.Sources[0].Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return cfg, string(cert.Leaf.Raw)
	}
	first, one := leaf(`"a.example.org", "b.example.org"`, nil)
	second, same := leaf(`"A.example.org", "b.example.org"`, first)
	if same != one {
		t.Error("the certificate was made anew, and nothing had changed")
	}
	if _, other := leaf(`"a.example.org"`, second); other == one {
		t.Error("the certificate is the old one, and its names have changed")
	}
	if _, fresh := leaf(`"a.example.org", "b.example.org"`, nil); fresh == one {
		t.Error("two loads that know nothing of each other share a certificate")
	}
	// A file of the same name is no certificate to keep.
	dir := testCertificates(t)
	file, err := certs.File("dev", filepath.Join(dir, "mail.crt"), filepath.Join(dir, "mail.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, made := leaf(`"mail.example.org"`, &Config{Sources: []certs.Source{file}}); made == one {
		t.Error("made of a file")
	}
}

// The control socket of a running gateway is found though its configuration
// has become wrong elsewhere, and not where it cannot be known.
func TestControlSocket(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		selfSignedText: "/var/lib/sallyport/control.sock",
		`state { path = "/srv/s" }` + "\n" + strings.Replace(selfSignedText, "listener", "lisener", 1):                                      "/srv/s/control.sock",
		`admin { control = "c.sock" }` + "\n" + `certificate "x" {` + "\n" + `cert_file = "gone"` + "\n" + `key_file = "gone"` + "\n" + `}`: filepath.Join(dir, "c.sock"),
		`admin { control = 7 + nothing }`:                              "",
		`variable "s" {}` + "\n" + `state { path = "${var.s}/state" }`: "",
		`state {`: "",
		`state { path = "/` + strings.Repeat("x", 100) + `" }`: "",
	} {
		path := filepath.Join(dir, "a.hcl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, diags := ControlSocket(path, Options{})
		if got != want || (want == "") != diags.HasErrors() {
			t.Errorf("%s\n%q, want %q: %v", text, got, want, diags)
		}
	}
	if got, diags := ControlSocket(filepath.Join(dir, "missing.hcl"), Options{}); got != "" || !diags.HasErrors() {
		t.Errorf("%q of a file that is not there", got)
	}
}
