package config

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zclconf/go-cty/cty"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// What cannot be read is one error that names the path and what to do.
func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.txt")
	if err := os.WriteFile(large, bytes.Repeat([]byte("#\n"), maxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "absent.hcl"): "absent.hcl: no such file or directory: put it there, or correct the path",
		dir:                              "No *.hcl or *.hcl.json file in",
		large:                            "larger than 1 MiB: split it",
	} {
		cfg, diags := Load(path, Options{})
		if cfg != nil || diags.Errors() != 1 || !strings.Contains(diags.Error(), want) {
			t.Errorf("%s: %v, want one error with %q", path, diags, want)
		}
		if err := diags.Err(); err == nil {
			t.Error("Err is nil")
		}
	}
}

// A variable's value comes from -var, else the environment, else its default,
// and has the type of the default.
func TestVariables(t *testing.T) {
	for _, tc := range []struct {
		block string
		opts  Options
		want  cty.Value // NilVal: an error
	}{
		{block: `variable "x" { default = "d" }`, want: cty.StringVal("d")},
		{block: `variable "x" { default = "d" }`, opts: env("SALLYPORT_VAR_x", "e"), want: cty.StringVal("e")},
		{block: `variable "x" { default = "d" }`, opts: both("v", "e"), want: cty.StringVal("v")},
		{block: `variable "x" {}`, opts: both("v", "e"), want: cty.StringVal("v")},
		{block: `variable "x" {}`, opts: both("", "e"), want: cty.StringVal("")},
		{block: `variable "x" {}`},
		{block: `variable "x" { default = null }`},
		{block: `variable "x" { default = 5 }`, opts: env("SALLYPORT_VAR_x", "7"), want: cty.NumberIntVal(7)},
		{block: `variable "x" { default = 5 }`, opts: env("SALLYPORT_VAR_x", "seven")},
		{block: `variable "x" { default = true }`, opts: env("SALLYPORT_VAR_x", "false"), want: cty.False},
		{block: `variable "x" { default = ["a"] }`, opts: env("SALLYPORT_VAR_x", `["b", "c"]`), want: cty.TupleVal([]cty.Value{cty.StringVal("b"), cty.StringVal("c")})},
		{block: `variable "x" { default = ["a"] }`, opts: env("SALLYPORT_VAR_x", `b`)},
		{block: `variable "x" { default = ["a"] }`, opts: env("SALLYPORT_VAR_x", `[`)},
		{block: `variable "x" { default = env("X", "none") }`, opts: env("X", "set"), want: cty.StringVal("set")},
		{block: `variable "x" { default = env("X", "none") }`, want: cty.StringVal("none")},
		{block: `variable "x-y" { default = "d" }`, opts: env("SALLYPORT_VAR_x_y", "e"), want: cty.StringVal("e")},
	} {
		t.Run(tc.block, func(t *testing.T) {
			l := newTestLoader(tc.opts)
			l.decodeRoot(l.parse([]source{{"test.hcl", []byte(tc.block)}}))
			if (tc.want == cty.NilVal) != l.diags.HasErrors() {
				t.Fatalf("%v", l.diags)
			}
			for _, got := range l.scope["var"] {
				if tc.want != cty.NilVal && !got.RawEquals(tc.want) {
					t.Errorf("got %#v, want %#v", got, tc.want)
				}
			}
		})
	}
}

func env(name, value string) Options {
	return Options{Getenv: func(n string) (string, bool) { return value, n == name }}
}

func both(v, e string) Options {
	opts := env("SALLYPORT_VAR_x", e)
	opts.Vars = map[string]string{"x": v}
	return opts
}

// A value for a variable that isn't there is an error: it is a typing mistake.
func TestUnknownVariable(t *testing.T) {
	src, err := os.ReadFile("testdata/good/03-expressions.hcl")
	if err != nil {
		t.Fatal(err)
	}
	_, diags := loadText(t, "testdata/good/x.hcl", string(src), Options{Vars: map[string]string{"domian": "example.net"}})
	if !strings.Contains(text(diags), `Did you mean "domain"?`) {
		t.Error(text(diags))
	}
}

func TestFunctions(t *testing.T) {
	l := newTestLoader(env("SET", "value"))
	l.dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(l.dir, "secret"), []byte(" s3cret \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "binary"), []byte{0xff, 0xfe}, 0o600); err != nil {
		t.Fatal(err)
	}
	for expr, want := range map[string]string{
		`file("secret")`:                                " s3cret ",
		`file("${"` + l.dir + `"}/secret")`:             " s3cret ",
		`file("binary")`:                                "error: is not UTF-8 text",
		`file("absent")`:                                "error: put it there",
		`file(".")`:                                     "error: not a regular file",
		`file("/dev/zero")`:                             "error: not a regular file",
		`env("SET")`:                                    "value",
		`env("SET", "default")`:                         "value",
		`env("UNSET", "default")`:                       "default",
		`env("UNSET", "")`:                              "",
		`env("UNSET")`:                                  `error: env("UNSET", "…")`,
		`coalesce(null, "", env("UNSET", ""), "c")`:     "c",
		`coalesce("", "")`:                              "error: all of them are empty",
		`join(",", sort(["b", "a"]))`:                   "a,b",
		`upper(trimspace(" a "))`:                       "A",
		`lookup({ a = "1" }, "b", "2")`:                 "2",
		`merge({ a = "1" }, { a = "3" }).a`:             "3",
		`replace("a-b", "-", ".")`:                      "a.b",
		`format("%s:%d", "a", length([1, 2]))`:          "a:2",
		`jsondecode("{\"a\": [\"x\"]}").a[0]`:           "x",
		`join(",", [for i in range(3) : "n${i}"])`:      "n0,n1,n2",
		`contains(["a"], "b") ? "yes" : "no"`:           "no",
		`element(concat(["a"], ["b"]), 1)`:              "b",
		`keys({ k = 1 })[0]`:                            "k",
		`flatten([["a"], []])[0]`:                       "a",
		`{ for k, v in { a = "b" } : v => upper(k) }.b`: "A",
	} {
		e, diags := hclsyntax.ParseExpression([]byte(expr), "test.hcl", hcl.InitialPos)
		var got cty.Value
		if !diags.HasErrors() {
			got, diags = e.Value(l.evalContext)
		}
		if message, isError := strings.CutPrefix(want, "error: "); isError {
			if !diags.HasErrors() || !strings.Contains(diags.Error(), message) {
				t.Errorf("%s is %v %v, want an error with %q", expr, got, diags, message)
			}
			continue
		}
		if diags.HasErrors() || got.AsString() != want {
			t.Errorf("%s is %v %v, want %q", expr, got, diags, want)
		}
	}
	if want := filepath.Join(l.dir, "secret"); !slices.Contains(l.watched, want) {
		t.Errorf("%s isn't among the watched files %v", want, l.watched)
	}
}

// No diagnostic shows the value of an expression: it may be a secret.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hunter2"
	src := `
locals { password = env("PASSWORD") }
certificate "mail" {
  names       = ["localhost"]
  self_signed = local.password
}
backend "chat" {
  servers = [for n in [1] : n + local.password]
  forward { webirc = "${local.password} " }
}
policy "default" {
  dialogue { commands = length(local.password.x) }
}
listener "imap" "chat" {
  address = [":143"]
  backend = backend.chat
}
`
	_, diags := loadText(t, "secret.hcl", src, env("PASSWORD", secret))
	if diags.Errors() < 4 {
		t.Errorf("only %d errors:\n%s", diags.Errors(), text(diags))
	}
	if out := text(diags) + diags.Error(); strings.Contains(out, secret) {
		t.Errorf("the secret is shown:\n%s", out)
	}
}

// Error and AllWarnings are lines for a log: places and words, no source.
func TestDiagnosticsInALog(t *testing.T) {
	_, diags := testLoad("testdata/bad/10-modes.hcl", Options{})
	if strings.Contains(diags.Error(), "\n") || strings.Contains(diags.Error(), "address = [") {
		t.Errorf("%s", diags.Error())
	}
	if !strings.Contains(diags.Error(), "testdata/bad/10-modes.hcl:10: Missing mode: Port 1143") {
		t.Errorf("%s", diags.Error())
	}
	warnings := diags.AllWarnings()
	if len(warnings) != diags.Warnings() || len(warnings) != 1 || !strings.HasPrefix(warnings[0], "testdata/bad/10-modes.hcl:25: Unusual mode") {
		t.Errorf("%q", warnings)
	}
	var plain, color bytes.Buffer
	n, err := diags.WriteTo(&plain)
	if err != nil || n != int64(plain.Len()) {
		t.Errorf("WriteTo returned %d, %v and wrote %d bytes", n, err, plain.Len())
	}
	if _, err := diags.WriteColor(&color); err != nil || !bytes.Contains(color.Bytes(), []byte("\x1b[31mError")) {
		t.Errorf("WriteColor: %v\n%s", err, color.Bytes())
	}
	_, diags = testLoad("testdata/good/01-short.hcl", Options{})
	if diags.Err() != nil || diags.Error() != "" {
		t.Errorf("a good configuration gives %v", diags.Err())
	}
}

// A file that is no configuration at all doesn't flood the terminal.
func TestGarbageIsBounded(t *testing.T) {
	for name, src := range map[string]string{
		"long-line.hcl":  "A{}" + strings.Repeat("\x1e", 100_000),
		"many-lines.hcl": strings.Repeat("backends \"x\" {}\n", 1000),
		"one.hcl.json":   `{"listener": {"imap": {` + strings.TrimSuffix(strings.Repeat(`"": {},`, 2000), ",") + `}}}`,
	} {
		_, diags := loadText(t, name, src, Options{})
		if !diags.HasErrors() {
			t.Errorf("%s is a good configuration", name)
		}
		if diags.Errors() < 10 {
			t.Errorf("%s has only %d errors", name, diags.Errors())
		}
		if n := len(text(diags)); n > 100_000 {
			t.Errorf("%s: %d bytes are written about it", name, n)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError} {
		b := &logBlock{}
		b.Level.Value = level
		if got := b.log().Level; got != want {
			t.Errorf("%s is %v", level, got)
		}
	}
}

// The tickets of one client policy are no good under another: the identity
// follows the authorities and the mode.
func TestClientAuthIdentity(t *testing.T) {
	certs := testCertificates(t)
	identity := func(mode, file string) string {
		l := newTestLoader(Options{})
		b := &clientAuthBlock{}
		b.Mode.Value = mode
		b.CAFile.Value = filepath.Join(certs, file)
		b.CAFile.wrote(hcl.Range{}, true)
		auth := l.clientAuth(b)
		if l.diags.HasErrors() {
			t.Fatal(l.diags)
		}
		return auth.Identity
	}
	a := identity("require", "ca.pem")
	if a != identity("require", "other.crt") {
		t.Error("the same authority in another file gives another identity")
	}
	if a == identity("request", "ca.pem") || a == identity("require", "mail.crt") {
		t.Error("another mode or authority gives the same identity")
	}
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"a.hcl", "log {\nlevel=\"info\" # why\n  format   = \"text\"\n}", "log {\n  level  = \"info\" # why\n  format = \"text\"\n}"},
		{"a.hcl.json", `{"log":{"level":"info"}}`, "{\n  \"log\": {\n    \"level\": \"info\"\n  }\n}\n"},
		{"a.hcl", "log {", ""},
		{"a.hcl.json", "{", ""},
	} {
		got, diags := Format([]byte(tc.in), tc.name)
		if string(got) != tc.want || diags.HasErrors() != (tc.want == "") {
			t.Errorf("%s %q: got %q, %v", tc.name, tc.in, got, diags)
		}
		if tc.want == "" {
			continue
		}
		again, _ := Format(got, tc.name)
		if diff := cmp.Diff(string(got), string(again)); diff != "" {
			t.Errorf("%s: formatting again changes it:\n%s", tc.name, diff)
		}
	}
}

func TestSuggest(t *testing.T) {
	names := []string{"address", "balance", "a", "smtp", "xmpp-server"}
	for name, want := range map[string]string{
		"adress":                   "address",
		"BALANCE":                  "balance",
		"balacne":                  "balance",
		"b":                        "",
		"smpt":                     "smtp",
		"xmppserver":               "xmpp-server",
		"colour":                   "",
		"":                         "",
		strings.Repeat("x", 1<<20): "",
	} {
		if got := suggest(name, names); got != want {
			t.Errorf("suggest(%.20q) is %q, want %q", name, got, want)
		}
	}
}
