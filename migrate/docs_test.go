package migrate

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const handbook = "../docs/migration.md"

// The example in docs/migration.md is what import makes of it; -update rewrites
// it.
func TestHandbookExample(t *testing.T) {
	text, err := os.ReadFile(handbook)
	if err != nil {
		t.Fatal(err)
	}
	fences := regexp.MustCompile("(?s)```ini\n(.*?)```.*?```hcl\n(.*?)```").FindSubmatchIndex(text)
	if fences == nil {
		t.Fatalf("%s has no example", handbook)
	}
	res, err := Convert(Stunnel, File{"stunnel.conf", text[fences[2]:fences[3]]}, Options{Protocols: spoken()})
	if err != nil {
		t.Fatal(err)
	}
	checkHCL(t, res)
	golden(t, handbook, slices.Concat(text[:fences[4]], res.HCL, text[fences[5]:]))
}

// Whatever is carried over, and whatever makes a listener a comment, has a
// place in docs/migration.md.
func TestHandbookIsComplete(t *testing.T) {
	text, err := os.ReadFile(handbook)
	if err != nil {
		t.Fatal(err)
	}
	lower := strings.ToLower(string(text))
	for _, name := range slices.Concat(stunnelCarried, mailCarried, streamCarried, []string{"ssl_certificate", "ssl_verify_client", "ssl_crl", "ssl_ocsp", "ssl_password_file", "ssl_protocols"}) {
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(lower) {
			t.Errorf("%s does not tell of %s", handbook, name)
		}
	}
}
