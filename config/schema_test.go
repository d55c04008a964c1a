package config

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/all"
)

// Every attribute and nested block has a description, and every block of the
// root a place in the manual.
func TestSchemaIsDescribed(t *testing.T) {
	manual := Markdown()
	walkSchema(func(path string, self *field, fields []*field) {
		if strings.Contains(path, ".") && self.doc == "" && path != "listener.options" {
			t.Errorf("%s has no doc tag", path)
		}
		if path != "" && !strings.Contains(path, ".") && !regexp.MustCompile(`(?m)^## `+path+`\b`).MatchString(manual) {
			t.Errorf("%s has no heading in manual.md", path)
		}
		for _, f := range fields {
			if f.kind == "attr" && (f.doc == "" || !strings.Contains(manual, "| `"+f.name+"` |")) {
				t.Errorf("%s.%s has no doc tag or is not in the manual", path, f.name)
			}
		}
	})
	for _, p := range newLoader(Options{}).protocols {
		if p.Options == nil {
			continue
		}
		for _, f := range fieldsOf(reflect.TypeOf(p.Options()).Elem()) {
			if f.doc == "" {
				t.Errorf("the option %s of %s has no doc tag", f.name, p.Name)
			}
		}
	}
}

// What is refused as not available is in the schema, and what it suggests
// isn't empty for attributes.
func TestNotYetIsInTheSchema(t *testing.T) {
	known := map[string]*field{}
	walkSchema(func(path string, self *field, fields []*field) {
		known[path] = self
		for _, f := range fields {
			known[strings.TrimPrefix(path+"."+f.name, ".")] = f
		}
	})
	for path, instead := range notYet {
		if known[path] == nil {
			t.Errorf("%s is not in the schema", path)
		}
		if instead == "" {
			t.Errorf("%s is refused, and nobody is told what to write instead", path)
		}
	}
}

// forward in config and upgraders.Forward have the same fields, and protocols
// name them as they are.
func TestForwardNames(t *testing.T) {
	var ours, theirs []string
	for _, f := range fieldsOf(reflect.TypeFor[forwardBlock]()) {
		ours = append(ours, f.name)
	}
	for _, f := range fieldsOf(reflect.TypeFor[upgraders.Forward]()) {
		theirs = append(theirs, f.name)
	}
	if !slices.Equal(ours, theirs) {
		t.Errorf("forward has %v, upgraders.Forward has %v", ours, theirs)
	}
	for _, p := range newLoader(Options{}).protocols {
		for _, name := range p.Forwards {
			if !slices.Contains(theirs, name) {
				t.Errorf("%s forwards %q, which is none of %v", p.Name, name, theirs)
			}
		}
	}
}

// Every attribute of the schema is read somewhere in the package: nothing is
// ignored in silence.
func TestSchemaIsUsed(t *testing.T) {
	used := map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				used[s.Sel.Name] = true
			}
			return true
		})
	}
	refused := func(path string) bool {
		for p := range notYet {
			if p == path || strings.HasPrefix(path, p+".") {
				return true
			}
		}
		return false
	}
	var walk func(path string, t reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for _, f := range fieldsOf(typ) {
			at := strings.TrimPrefix(path+"."+f.name, ".")
			name := typ.Field(f.index).Name
			if !used[name] && !refused(at) && name != "Description" {
				t.Errorf("%s (%s) is decoded and never looked at", at, name)
			}
			if f.kind == "block" {
				walk(at, f.elem())
			}
		}
	}
	walk("", reflect.TypeFor[root]())
}

// docs/config.md is what the schema says.
func TestDocs(t *testing.T) {
	golden(t, "../docs/config.md", Markdown())
}

// Every example in the documentation can be loaded. One without a listener
// gets one, so that there is something to do.
func TestDocsExamples(t *testing.T) {
	src, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?ms)^```hcl\n(.*?)^```$").FindAllSubmatch(src, -1)
	if len(examples) < 5 {
		t.Fatalf("docs/config.md has %d examples", len(examples))
	}
	rest := `
certificate "rest" {
  names       = ["localhost"]
  self_signed = true
}
backend "rest" {
  servers = ["192.0.2.1:7001"]
  send    = "proxy-v2"
}
listener "test" "rest" {
  address = [":7001"]
  options { text = "" }
  backend = backend.rest
}
`
	for _, m := range examples {
		example := string(m[1])
		if formatted, _ := Format(m[1], "example.hcl"); !bytes.Equal(formatted, m[1]) {
			t.Errorf("not in the one style:\n%s", example)
		}
		if !strings.Contains(example, `listener "`) {
			example += rest
		}
		if _, diags := loadText(t, "example.hcl", example, Options{}); diags.HasErrors() {
			t.Errorf("%s\n%s", example, text(diags))
		}
	}
}

// So can those of the other pages that show a whole listener, with
// certificates in the place of those that they name.
func TestDocsListeners(t *testing.T) {
	certs := testCertificates(t)
	pages, err := filepath.Glob("../docs/protocols/*.md")
	if err != nil || len(pages) < len(all.Protocols())/2 {
		t.Fatalf("pages of protocols: %d, %v", len(pages), err)
	}
	files := regexp.MustCompile(`\b(cert_file|key_file|ca_file)( *= *)"[^"]*"`)
	names := map[string]string{"cert_file": "mail.crt", "key_file": "mail.key", "ca_file": "ca.pem"}
	shown := 0
	for _, page := range append(pages, "../docs/acme.md") {
		src, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?ms)^```hcl\n(.*?)^```$").FindAllSubmatch(src, -1) {
			if !bytes.Contains(m[1], []byte(`listener "`)) {
				continue
			}
			shown++
			example := files.ReplaceAllStringFunc(string(m[1]), func(s string) string {
				f := files.FindStringSubmatch(s)
				return f[1] + f[2] + `"` + filepath.Join(certs, names[f[1]]) + `"`
			})
			if formatted, _ := Format(m[1], "example.hcl"); !bytes.Equal(formatted, m[1]) {
				t.Errorf("%s: not in the one style:\n%s", page, m[1])
			}
			if _, diags := loadText(t, "example.hcl", example, Options{}); diags.HasErrors() {
				t.Errorf("%s:\n%s\n%s", page, example, text(diags))
			}
		}
	}
	if shown < len(all.Protocols())/2 {
		t.Errorf("%d listeners are shown", shown)
	}
}

// Every example directory can be loaded, without a warning but for those that
// it says cannot be helped.
func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../examples/*/*.hcl")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	certs := testCertificates(t)
	shown := map[string]bool{}
	for _, path := range paths {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			cfg, diags := Load(path, Options{Vars: varsFor(path, certs), Getenv: func(string) (string, bool) { return "", false }})
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for _, m := range regexp.MustCompile(`(?m)^# check warns: (.*)$`).FindAllSubmatch(src, -1) {
				want = append(want, string(m[1]))
			}
			for _, d := range diags.list {
				if !slices.Contains(got, d.Summary) {
					got = append(got, d.Summary)
				}
			}
			if diags.HasErrors() || !slices.Equal(got, want) {
				t.Errorf("want no more warnings than the file tells of, %q:\n%s", want, text(diags))
			}
			if formatted, _ := Format(src, path); !bytes.Equal(formatted, src) {
				t.Errorf("%s is not in the one style: sallyport fmt", path)
			}
			if cfg != nil {
				for _, l := range cfg.Gateway.Listeners {
					shown[l.Protocol.Name] = true
				}
			}
		})
	}
	for _, p := range all.Protocols() {
		if !shown[p.Name] && p.Name != "tcp" { // which has nothing to explain
			t.Errorf("no example has a listener %q", p.Name)
		}
	}
}

// The whole schema is decoded; what is refused is what is not available.
func TestFull(t *testing.T) {
	certs := testCertificates(t)
	_, diags := testLoad("testdata/full.hcl", Options{Vars: map[string]string{"certs": certs}})
	src, err := os.ReadFile("testdata/full.hcl")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, d := range diags.list {
		if strings.HasSuffix(d.Summary, "is not available yet") {
			refused++
		} else if d.Severity == hcl.DiagError {
			t.Errorf("%s: %s", d.Summary, d.Detail)
		}
	}
	if refused != diags.Errors() || refused == 0 {
		t.Errorf("%d errors, and %d of them are of what is not available", diags.Errors(), refused)
	}
	walkSchema(func(path string, _ *field, fields []*field) {
		for _, f := range fields {
			if f.kind != "label" && f.kind != "body" && !strings.Contains(string(src), f.name) {
				t.Errorf("%s.%s is not in full.hcl", path, f.name)
			}
		}
	})
	golden(t, "testdata/full.hcl.txt", scrub(text(diags), certs))
}
