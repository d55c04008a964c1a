package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/config"
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/all"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var fence = regexp.MustCompile("(?ms)^```hcl\n(.*?)^```$")

// The first file of the README is what a newcomer copies: it loads, and warns
// of nothing.
func TestREADMEConfigurationLoads(t *testing.T) {
	blocks := fence.FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) < 3 {
		t.Fatal("README.md should show a configuration, a self-signed certificate and one of an authority")
	}
	dir := t.TempDir()
	ca, err := newDemoCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.issue("mail.example.org", net.IPv4(127, 0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	files := strings.NewReplacer(
		"/etc/letsencrypt/live/mail.example.org/fullchain.pem", filepath.Join(dir, "mail.example.org.crt"),
		"/etc/letsencrypt/live/mail.example.org/privkey.pem", filepath.Join(dir, "mail.example.org.key"),
	)
	whole := files.Replace(blocks[0][1])
	certificate := regexp.MustCompile(`(?ms)^certificate "mail" \{.*?^\}\n`)
	if !certificate.MatchString(whole) {
		t.Fatal("the configuration has no certificate")
	}
	for name, text := range map[string]string{
		"with certbot's files": whole,
		"self-signed":          certificate.ReplaceAllLiteralString(whole, blocks[1][1]),
		"by an authority":      certificate.ReplaceAllLiteralString(whole, "state { path = \""+dir+"\" }\n"+blocks[2][1]),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sallyport.hcl")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, diags := config.Load(path, config.Options{})
			if diags.Errors()+diags.Warnings() > 0 {
				var shown strings.Builder
				diags.WriteTo(&shown)
				t.Error(shown.String())
			}
		})
	}
}

// README and binary speak the same protocols.
func TestREADMEProtocols(t *testing.T) {
	text := read(t, "README.md")
	for _, p := range all.Protocols() {
		row := fmt.Sprintf("(?m)^\\| `%s` \\|", regexp.QuoteMeta(p.Name))
		if !regexp.MustCompile(row).MatchString(text) {
			t.Errorf("README.md has no row for %s", p.Name)
		}
		if planned := regexp.MustCompile(`(?s)Planned, and not there\s+yet:(.*?)\.`).FindString(text); regexp.MustCompile(`\b` + p.Name + `\b`).MatchString(planned) {
			t.Errorf("README.md calls %s planned, and it is there", p.Name)
		}
	}
}

// Every value of the closed sets, every metric and every message that operators
// will search for is in the handbook.
func TestHandbookIsComplete(t *testing.T) {
	text := read(t, "docs/operations.md")
	want := func(what, value string) {
		if !strings.Contains(text, "`"+value+"`") {
			t.Errorf("docs/operations.md does not tell of the %s %s", what, value)
		}
	}
	for _, reason := range upgraders.Reasons() {
		want("reason", reason)
	}
	outcomes := literals(t, "gateway/outcome.go", `outcome\s+= "(\w+)"`)
	for _, o := range outcomes {
		want("outcome", o)
	}
	metrics := literals(t, "gateway/metrics.go", `"(sallyport_\w+)"`)
	for _, m := range metrics {
		want("metric", m)
	}
	if len(outcomes) < 10 || len(metrics) < 10 {
		t.Errorf("found only %d outcomes and %d metrics in the sources", len(outcomes), len(metrics))
	}
	for _, key := range literals(t, "gateway/outcome.go", `(?:slog\.\w+|add)\("(\w+)"`) {
		want("key", key)
	}

	// And the other way round: nothing is told of that is not there.
	known := strings.Join(append(outcomes, metrics...), " ") + " " + strings.Join(upgraders.Reasons(), " ")
	for _, m := range regexp.MustCompile("(?m)^\\| `(sallyport_\\w+)` \\|").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(known, m[1]) {
			t.Errorf("docs/operations.md tells of the metric %s, which does not exist", m[1])
		}
	}
}

// Warnings and errors of the gateway's own log have a row.
func TestHandbookKnowsTheMessages(t *testing.T) {
	text := read(t, "docs/operations.md")
	var files []string
	for _, pattern := range []string{"gateway/*.go", "certs/*.go", "certs/*/*.go", "cmd/sallyport/*.go"} {
		found, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, msg := range literals(t, file[len("../../"):], `log\.(?:Info|Warn|Error)\("([^"]+)"`) {
			if !strings.Contains(text, "`"+msg+"`") {
				t.Errorf("docs/operations.md does not tell of the message %q (%s)", msg, file)
			}
		}
	}
}

// literals returns what the first group of a pattern matches in a source file.
func literals(t *testing.T, path, pattern string) (found []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, path), -1) {
		found = append(found, m[1])
	}
	return found
}
