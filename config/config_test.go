package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/config.md")

// testOptions are decoded by the protocol "test", which has one option of each
// type.
type testOptions struct {
	Text     string        `hcl:"text"`
	Flag     bool          `hcl:"flag,optional"`
	Number   int           `hcl:"number,optional"`
	Wait     time.Duration `hcl:"wait,optional"`
	Words    []string      `hcl:"words,optional"`
	Strength string        `hcl:"strength,optional" enum:"weak|strong"`
}

type testUpgrader struct {
	upgraders.Upgrader
	Options testOptions
}

func testProtocol() *upgraders.Protocol {
	return &upgraders.Protocol{
		Name:     "test",
		Keyword:  "STARTTLS",
		Ports:    []uint16{7001},
		Implicit: []uint16{7002},
		Forwards: []string{"webirc"},
		Options:  func() any { return &testOptions{Strength: "strong"} },
		New: func(o any) (upgraders.Upgrader, error) {
			options := *o.(*testOptions)
			if options.Number > 9 {
				return nil, errors.New("number is above 9: write a digit")
			}
			return &testUpgrader{Options: options}, nil
		},
	}
}

// newTestLoader is what Load uses, with the protocol "test" and without
// anything of this machine.
func newTestLoader(opts Options) *loader {
	if opts.Getenv == nil {
		opts.Getenv = func(string) (string, bool) { return "", false }
	}
	l := newLoader(opts)
	l.protocols = append(l.protocols, testProtocol())
	l.hostname = func() (string, error) { return "gw.example.org", nil }
	return l
}

func testLoad(path string, opts Options) (*Config, *Diagnostics) {
	l := newTestLoader(opts)
	return l.load(l.read(path))
}

// loadText loads a configuration that is a text.
func loadText(t testing.TB, name, src string, opts Options) (*Config, *Diagnostics) {
	t.Helper()
	return newTestLoader(opts).load([]source{{name, []byte(src)}})
}

// text is what WriteTo writes, but for its line ends, which depend on the
// length of temporary paths.
func text(d *Diagnostics) string {
	var out bytes.Buffer
	d.write(&out, 0, false)
	return out.String()
}

// scrub takes out of a text what differs from run to run.
func scrub(text, certs string) string {
	text = strings.ReplaceAll(text, certs, "$CERTS")
	text = regexp.MustCompile(`\b[0-9a-f]{64}\b`).ReplaceAllString(text, "DIGEST")
	return regexp.MustCompile(`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC`).ReplaceAllString(text, "DATE")
}

// golden compares a text with a file, or writes the file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; write it with -update and read it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func cases(t *testing.T, dir string) (paths []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasSuffix(e.Name(), ".hcl") || strings.HasSuffix(e.Name(), ".json") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// Every mistake is reported with its place and with what to write instead.
func TestBad(t *testing.T) {
	certs := testCertificates(t)
	for _, path := range cases(t, "testdata/bad") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cfg, diags := testLoad(path, Options{Vars: varsFor(path, certs)})
			if (cfg == nil) != diags.HasErrors() {
				t.Errorf("the configuration is %v, and there are %d errors", cfg, diags.Errors())
			}
			if len(diags.list) == 0 {
				t.Error("nothing is reported")
			}
			for _, d := range diags.list {
				if d.Subject == nil || d.Subject.Start.Line < 1 {
					t.Errorf("%q has no place", d.Summary)
				}
				if d.Detail == "" && !strings.Contains(d.Summary, "not available yet") {
					t.Errorf("%q does not say what to write instead", d.Summary)
				}
			}
			golden(t, path+".txt", scrub(text(diags), certs))
		})
	}
}

// What is written is what the gateway gets.
func TestGood(t *testing.T) {
	certs := testCertificates(t)
	for _, path := range cases(t, "testdata/good") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cfg, diags := testLoad(path, Options{Vars: varsFor(path, certs)})
			if diags.HasErrors() || diags.Warnings() > 0 {
				t.Fatalf("%s", text(diags))
			}
			golden(t, path+".txt", scrub(dump(cfg), certs))
		})
	}
}

// What is spelled out against advice is what the gateway gets, too.
func TestWarned(t *testing.T) {
	certs := testCertificates(t)
	for _, path := range cases(t, "testdata/warned") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cfg, diags := testLoad(path, Options{Vars: varsFor(path, certs)})
			if diags.HasErrors() || diags.Warnings() == 0 {
				t.Fatalf("%d warnings\n%s", diags.Warnings(), text(diags))
			}
			golden(t, path+".txt", scrub(dump(cfg)+"\n"+text(diags), certs))
		})
	}
}

// G-33: check warns, once for all, of each pair of listeners that shows one
// certificate in both ways to begin TLS, and of a listener that does so alone;
// not of others, and not where that was accepted.
func TestOpossum(t *testing.T) {
	const head = `
certificate "one" {
  names       = ["one.example.org"]
  self_signed = true
}
certificate "two" {
  names       = ["two.example.org"]
  self_signed = true
}
backend "mail" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
}
`
	listener := func(protocol, name, mode, more string) string {
		return fmt.Sprintf("listener %q %q {\n  address = [\"127.0.0.1:0\"]\n  mode = %q\n  backend = backend.mail\n  %s\n}\n", protocol, name, mode, more)
	}
	const one, two, accepted = "certs = [certificate.one]", "certs = [certificate.two]", "opossum = \"accepted\""
	for name, c := range map[string]struct{ listeners, warned string }{
		"pair":            {listener("pop3", "a", "starttls", "") + listener("pop3", "b", "implicit", ""), "a and b"},
		"named":           {listener("lmtp", "a", "starttls", one) + listener("lmtp", "b", "implicit", one), "a and b"},
		"three":           {listener("smtp", "a", "starttls", "") + listener("smtp", "b", "starttls", "") + listener("smtp", "c", "implicit", ""), "a and c, b and c"},
		"alone":           {listener("imap", "a", "auto", ""), "a in both modes"},
		"two certs":       {listener("pop3", "a", "starttls", one) + listener("pop3", "b", "implicit", two), ""},
		"two protocols":   {listener("pop3", "a", "starttls", "") + listener("imap", "b", "implicit", ""), ""},
		"one mode":        {listener("pop3", "a", "starttls", "") + listener("pop3", "b", "starttls", ""), ""},
		"accepted":        {listener("pop3", "a", "starttls", accepted) + listener("pop3", "b", "implicit", ""), ""},
		"accepted, alone": {listener("imap", "a", "auto", accepted), ""},
	} {
		_, diags := loadText(t, "opossum.hcl", head+c.listeners, Options{})
		got := ""
		for _, d := range diags.list {
			if strings.Contains(d.Detail, "Opossum, opossum-attack.com") {
				if got != "" {
					t.Errorf("%s: warned more than once", name)
				}
				_, got, _ = strings.Cut(d.Detail, "opossum-attack.com): ")
				got, _, _ = strings.Cut(got, ". ")
			}
		}
		if diags.HasErrors() || got != c.warned {
			t.Errorf("%s: warned of %q, want %q\n%v", name, got, c.warned, diags)
		}
	}
}

// H-01: HTTP that upgrades beside HTTPS with one certificate is an error; with
// two certificates, where it was accepted, and without the upgrade it is none.
// Options that do not suit the listener are refused, with what to write.
func TestUpgradeBesideHTTPS(t *testing.T) {
	listener := func(name, mode, more string, options ...string) string {
		return fmt.Sprintf("listener \"http\" %q {\n address = [\"127.0.0.1:0\"]\n mode = %q\n backend = backend.site\n %s\n options {\n%s\n}\n}\n", name, mode, more, strings.Join(options, "\n"))
	}
	const head = "backend \"site\" {\n servers = [\"192.0.2.10:80\"]\n}\n" +
		"certificate \"one\" {\n names = [\"one.example.org\"]\n self_signed = true\n}\ncertificate \"two\" {\n names = [\"two.example.org\"]\n self_signed = true\n}\n"
	const one, two, accepted, allow = "certs = [certificate.one]\nhostname = \"one.example.org\"", "certs = [certificate.two]\nhostname = \"two.example.org\"", "opossum = \"accepted\"", "cleartext = \"allow\"\ncleartext_auth = false"
	const upgrade, redirect, hsts = "upgrade = true", "redirect = true", "hsts = \"max-age=600\""
	https := listener("b", "implicit", one)
	for name, c := range map[string]struct{ listeners, refused string }{
		"pair":                {listener("a", "starttls", one, upgrade) + https, "An upgrade beside HTTPS"},
		"the other way":       {https + listener("a", "starttls", one, upgrade), "An upgrade beside HTTPS"},
		"allowed":             {listener("a", "starttls", one+"\n"+allow, upgrade) + https, "An upgrade beside HTTPS"},
		"alone":               {listener("a", "auto", one, upgrade), "An upgrade beside HTTPS"},
		"accepted":            {listener("a", "starttls", one+"\n"+accepted, upgrade) + https, ""},
		"alone, accepted":     {listener("a", "auto", one+"\n"+accepted, upgrade), ""},
		"two certificates":    {listener("a", "starttls", two, upgrade) + https, ""},
		"redirect":            {listener("a", "starttls", one, redirect) + https, ""},
		"cleartext":           {listener("a", "starttls", one+"\n"+allow) + https, ""},
		"auto, no upgrade":    {listener("a", "auto", one, hsts), ""},
		"nobody served":       {listener("a", "starttls", one), "Options that do not suit the listener"},
		"upgrade, implicit":   {listener("a", "implicit", one, upgrade), "Options that do not suit the listener"},
		"redirect, cleartext": {listener("a", "starttls", one+"\n"+allow, redirect), "Options that do not suit the listener"},
		"hsts, cleartext":     {listener("a", "starttls", one, redirect, hsts), "Options that do not suit the listener"},
		"hsts":                {listener("a", "implicit", one, hsts), ""},
		"hsts that is none":   {listener("a", "implicit", one, "hsts = \"a year\""), "Unsuitable options for http"},
	} {
		_, diags := loadText(t, "upgrade.hcl", head+c.listeners, Options{})
		if diags.HasErrors() != (c.refused != "") || c.refused != "" && !strings.Contains(diags.Error(), c.refused) {
			t.Errorf("%s: want %q, got\n%v", name, c.refused, diags)
		}
	}
}

// varsFor gives the variable "certs" to the files that have it.
func varsFor(path, certs string) map[string]string {
	src, _ := os.ReadFile(path)
	if bytes.Contains(src, []byte(`"certs"`)) {
		return map[string]string{"certs": certs}
	}
	return nil
}

// HCL and its JSON syntax say the same.
func TestJSON(t *testing.T) {
	certs := testCertificates(t)
	opts := Options{Vars: map[string]string{"certs": certs}}
	hclConfig, diags := testLoad("testdata/good/04-syntax.hcl", opts)
	if diags.HasErrors() {
		t.Fatal(text(diags))
	}
	jsonConfig, diags := testLoad("testdata/good/04-syntax.hcl.json", opts)
	if diags.HasErrors() {
		t.Fatal(text(diags))
	}
	hclConfig.Files, jsonConfig.Files = nil, nil
	if diff := cmp.Diff(dump(hclConfig), dump(jsonConfig)); diff != "" {
		t.Errorf("HCL and JSON differ (-hcl +json):\n%s", diff)
	}
}

// The defaults of the schema are those of the gateway.
func TestPolicyDefaults(t *testing.T) {
	l := newTestLoader(Options{})
	l.defaultPolicy()
	if diff := cmp.Diff(gateway.NewPolicy(), l.policy(l.root.Policies[0])); diff != "" {
		t.Errorf("policy.default is not gateway.NewPolicy (-gateway +config):\n%s", diff)
	}
}
