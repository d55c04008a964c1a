package migrate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/sallyport/sallyport/config"
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/all"
)

var update = flag.Bool("update", false, "rewrite the .hcl and .txt files of testdata")

// spoken are the protocols of the golden files, which a new protocol does not
// change.
func spoken() (list []*upgraders.Protocol) {
	for _, name := range []string{"smtp", "lmtp", "imap", "pop3", "tcp"} {
		list = append(list, all.Lookup(name))
	}
	return list
}

// options reads includes from the directory of the file.
func options(path string) Options {
	dir := filepath.Dir(path)
	return Options{Protocols: spoken(), Dir: "/etc/nginx", Include: func(pattern string) (files []File, err error) {
		pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "/etc/nginx/"), "/etc/stunnel/")
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, File{Name: filepath.Base(filepath.Dir(name)) + "/" + filepath.Base(name), Text: text})
		}
		return files, err
	}}
}

// Each configuration of testdata becomes the .hcl beside it, with the notes of
// the .txt beside it; the HCL is in the one style, and check finds no error.
func TestGolden(t *testing.T) {
	for _, program := range Programs() {
		paths, err := filepath.Glob(filepath.Join("testdata", program, "*.conf"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no testdata for %s: %v", program, err)
		}
		for _, path := range paths {
			t.Run(program+"/"+filepath.Base(path), func(t *testing.T) {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				file := File{Name: filepath.Base(path), Text: text}
				if detected, err := Detect(file); detected != program {
					t.Errorf("it is taken for a configuration of %q (%v)", detected, err)
				}
				var hclText, notes []byte
				res, err := Convert(program, file, options(path))
				if err != nil {
					notes = []byte("error: " + err.Error() + "\n")
				} else {
					hclText, notes = res.HCL, noteText(res)
				}
				golden(t, strings.TrimSuffix(path, ".conf")+".hcl", hclText)
				golden(t, strings.TrimSuffix(path, ".conf")+".txt", notes)
				if err != nil {
					return
				}
				checkNotes(t, res)
				checkHCL(t, res)

				// Protocols that have come since change the result, and check
				// accepts that as well.
				opts := options(path)
				opts.Protocols = all.Protocols()
				if res, err = Convert(program, file, opts); err != nil {
					t.Fatal(err)
				}
				checkNotes(t, res)
				checkHCL(t, res)
			})
		}
	}
}

func noteText(res *Result) []byte {
	var out bytes.Buffer
	for _, n := range res.Notes {
		fmt.Fprintln(&out, n)
	}
	fmt.Fprintf(&out, "%d listeners\n", res.Listeners)
	return out.Bytes()
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what it was (-want +got), -update rewrites it:\n%s", path, diff)
	}
}

// checkNotes wants each note to stand in the HCL as well.
func checkNotes(t *testing.T, res *Result) {
	t.Helper()
	said := strings.Join(strings.Fields(strings.ReplaceAll(string(res.HCL), "\n#", " ")), " ")
	for _, n := range res.Notes {
		if n.Line < 1 || n.File == "" || n.Why == "" || n.What == "" {
			t.Errorf("a note without a place or reason: %#v", n)
		}
		if !strings.Contains(said, strings.Join(strings.Fields(clean(n.text())), " ")) {
			t.Errorf("no comment says: %s", n)
		}
	}
}

var filePaths = regexp.MustCompile(`(?m)^(\s*(?:cert_file|key_file|ca_file)\s*= ).*$`)

// checkHCL wants what check wants of a result that has listeners. Its files are
// replaced by some that exist.
func checkHCL(t *testing.T, res *Result) {
	t.Helper()
	formatted, diags := config.Format(res.HCL, "result.hcl")
	if diags.HasErrors() {
		t.Fatalf("the result cannot be parsed: %v\n%s", diags, res.HCL)
	}
	if diff := cmp.Diff(string(formatted), string(res.HCL)); diff != "" {
		t.Errorf("not in the one style (-want +got):\n%s", diff)
	}
	if res.Listeners == 0 {
		return
	}
	path := filepath.Join(t.TempDir(), "sallyport.hcl")
	text := filePaths.ReplaceAll(res.HCL, []byte("${1}"+strconv.Quote(pemFile(t))))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, diags := config.Load(path, config.Options{})
	if diags.HasErrors() {
		var shown strings.Builder
		diags.WriteTo(&shown)
		t.Fatalf("check does not accept it:\n%s\n%s", shown.String(), res.HCL)
	}
	if got := len(cfg.Gateway.Listeners); got != res.Listeners {
		t.Errorf("%d listeners were loaded, %d announced", got, res.Listeners)
	}
}

var pemPath string

// pemFile is a certificate with its key, and an authority.
func pemFile(t testing.TB) string {
	t.Helper()
	if pemPath != "" {
		return pemPath
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail.example.org"}, DNSNames: []string{"mail.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	path := filepath.Join(scratch, "mail.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	pemPath = path
	return path
}

var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "migrate-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}())
}

// What is quoted comes back as it was, and nothing in it is a template.
func TestQuote(t *testing.T) {
	for _, s := range []string{
		"", "plain", `a"b\c`, "${var.x}", "%{ if true }", "$${x}", "$$${x}", "%%{x}", "100%", "$", "a$", "tab\tline\nret\r", "nul\x00 esc\x1b del\x7f",
		"bidi\u202e sep\u2028", "päth/証明書.pem", "\ufeffbom",
	} {
		e, diags := hclsyntax.ParseExpression([]byte(quote(s)), "quote.hcl", hcl.InitialPos)
		if diags.HasErrors() {
			t.Errorf("%q is quoted as %s: %v", s, quote(s), diags)
			continue
		}
		if v, diags := e.Value(nil); diags.HasErrors() || v.AsString() != s {
			t.Errorf("%q is quoted as %s and comes back as %v", s, quote(s), v)
		}
	}
}

// A secret of the old configuration is in no comment and in no note.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	text := "engine = pkcs11\nengineCtrl = PIN:" + secret + "\n[imaps]\naccept = 993\nconnect = 143\ncert = /etc/a.pem\nticketKeySecret = " + secret +
		"\nticketMacSecret = " + secret + "\nprotocolPassword = " + secret + "\nprotocolUsername = " + secret + "\n"
	res, err := Convert(Stunnel, File{"stunnel.conf", []byte(text)}, Options{Protocols: spoken()})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Notes) < 5 {
		t.Errorf("only %d notes", len(res.Notes))
	}
	if strings.Contains(string(res.HCL)+string(noteText(res)), secret) {
		t.Errorf("the secret is shown:\n%s\n%s", res.HCL, noteText(res))
	}
}

// What a program itself would not read is an error that says where.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ program, text, want string }{
		{Stunnel, "[imaps]\naccept 993\n", "f.conf:2: neither a [section] nor option = value"},
		{Nginx, "mail {\n", "f.conf:2: a } is missing"},
		{Nginx, "mail {}\n}\n", `f.conf:2: unexpected "}"`},
		{Nginx, "user \"nobody;\n", "a quote is not closed"},
		{Nginx, "user \"nobody\"x;\n", "behind a quote"},
		{Nginx, "user nobody\n", "user has no ; at its end"},
		{Nginx, ";", "unexpected ';'"},
		{Nginx, strings.Repeat("a{", 100), "nested too deeply"},
		{"haproxy", "", `"haproxy" cannot be read: write stunnel or nginx`},
	} {
		if _, err := Convert(c.program, File{"f.conf", []byte(c.text)}, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want an error with %q", c.program, c.text, err, c.want)
		}
	}
}

// Files that include each other end.
func TestIncludeLoops(t *testing.T) {
	for program, text := range map[string]string{Stunnel: "include = /etc/stunnel\n", Nginx: "include nginx.conf;\n"} {
		file := File{"loop.conf", []byte(text)}
		opts := Options{Include: func(string) ([]File, error) { return []File{file, file}, nil }}
		if _, err := Convert(program, file, opts); err == nil || !strings.Contains(err.Error(), "does one include itself?") {
			t.Errorf("%s: %v", program, err)
		}
	}
}

func TestDetect(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"x", "; comment\n[imaps]\n", Stunnel},
		{"x", "cert = /a\naccept=993\n", Stunnel},
		{"x", "# comment\nmail\n{\n}\n", Nginx},
		{"x", "include /etc/nginx/modules-enabled/*.conf;\n", Nginx},
		{"/etc/stunnel.conf", "", Stunnel},
		{"nginx.conf.old", "", Nginx},
		{"haproxy.cfg", "frontend mail\n  bind :993\n", ""},
	} {
		got, err := Detect(File{c.name, []byte(c.text)})
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s %q is taken for %q (%v), want %q", c.name, c.text, got, err, c.want)
		}
	}
}

func TestNginxTime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, "90s": 90 * time.Second, "1m30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "1d": 24 * time.Hour,
		"0": 0, "": 0, "x": 0, "5x": 0, "99999w": 0, "18446744073709551615": 0,
	} {
		if got, ok := nginxTime(text); got != want && ok || ok != (want > 0) {
			t.Errorf("nginxTime(%q) = %v, %v", text, got, ok)
		}
	}
	for d, want := range map[time.Duration]string{90 * time.Second: "1m30s", 12 * time.Hour: "12h", time.Minute: "1m", 500 * time.Millisecond: "500ms", time.Hour + time.Second: "1h0m1s"} {
		if got := duration(d); got != want {
			t.Errorf("duration(%v) = %q, want %q", d, got, want)
		}
	}
}
