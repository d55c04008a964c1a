// The rules of the house that a machine can check. Each failure says what the
// rule is for and what to do; `go test . -update` rewrites what can be written
// by a machine.
package sallyport_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, `rewrite the column "tested in" of docs/security.md`)

const module = "github.com/sallyport/sallyport"

// A rule returns its complaints about a tree.
type rule struct {
	name  string
	check func(*tree) []string
}

var rules = []rule{
	{"imports point one way", imports},
	{"one package comment a package", packageComments},
	{"no init, no package-level state by init", noInit},
	{"gofmt", formatted},
	{"nothing is skipped in CI", noSkips},
	{"nothing unfinished", noLeftovers},
	{"RFC citations", citations},
	{"metric names", metricNames},
	{"links", links},
	{"dialogue scripts say what they are for", scripts},
	{"attack cases", cases},
}

func TestRules(t *testing.T) {
	house := load(t, os.DirFS("."))
	if *update {
		text := house.files[securityDoc]
		if err := os.WriteFile(securityDoc, tested(house, text), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, complaint := range r.check(house) {
				t.Error(complaint)
			}
		})
	}
}

// Each rule finds what is wrong with the houses of testdata/house, and nothing
// else: the file comments of each archive list the complaints.
func TestRulesFindFaults(t *testing.T) {
	entries, err := os.ReadDir("testdata/house")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			archive, err := txtar.ParseFile(path.Join("testdata/house", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files := make(fstest.MapFS)
			for _, f := range archive.Files {
				files[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			house := load(t, files)
			var got []string
			for _, r := range rules {
				for _, complaint := range r.check(house) {
					found[r.name] = true
					got = append(got, r.name+": "+complaint)
				}
			}
			var want []string
			for line := range strings.Lines(string(archive.Comment)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					want = append(want, line)
				}
			}
			for _, w := range want {
				i := slices.IndexFunc(got, func(g string) bool { return strings.HasPrefix(g, w) })
				if i < 0 {
					t.Errorf("nobody complains: %s", w)
					continue
				}
				got = slices.Delete(got, i, i+1)
			}
			for _, g := range got {
				t.Errorf("unexpected complaint: %s", g)
			}
		})
	}
	for _, r := range rules {
		if !found[r.name] {
			t.Errorf("no house in testdata/house breaks the rule %q: a rule that never fails checks nothing", r.name)
		}
	}
}

// A tree is what the rules look at.
type tree struct {
	fsys  fs.FS
	files map[string][]byte // by path
	fset  *token.FileSet
	code  map[string]*ast.File // the Go files among them
}

// load reads a tree: everything but what git, editors and builds keep there.
func load(t *testing.T, fsys fs.FS) *tree {
	t.Helper()
	house := &tree{fsys: fsys, files: make(map[string][]byte), fset: token.NewFileSet(), code: make(map[string]*ast.File)}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "dist" || name == "testdata" || strings.HasPrefix(name, ".") && len(name) > 1):
			return fs.SkipDir
		case !d.Type().IsRegular() || !slices.Contains([]string{".go", ".md", ".txt", ".sh", ".hcl"}, path.Ext(name)) && name != "Makefile" && name != "LICENSE" && name != "Dockerfile":
			return nil
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		house.files[name] = data
		if path.Ext(name) == ".go" {
			f, err := parser.ParseFile(house.fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			house.code[name] = f
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return house
}

// names returns the files that match, in order.
func (h *tree) names(match func(name string) bool) (names []string) {
	for name := range h.files {
		if match(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func isGo(name string) bool   { return path.Ext(name) == ".go" }
func isTest(name string) bool { return strings.HasSuffix(name, "_test.go") }
func isCode(name string) bool { return isGo(name) && !isTest(name) }
func isDoc(name string) bool  { return path.Ext(name) == ".md" }
func isScript(name string) bool {
	one, _ := path.Match("upgraders/*/testdata/*.txt", name)
	several, _ := path.Match("upgraders/*/testdata/*/*.txt", name)
	return one || several
}

// at returns file:line of a node.
func (h *tree) at(n ast.Node) string {
	p := h.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// layers says what of this module each package may import, and why nothing
// else. The first pattern that matches counts.
var layers = []struct{ pkg, may, because string }{
	{"cmd/*", "config gateway certs certs/acme certs/store certs/tickets migrate upgraders upgraders/all", "commands know the configuration and the gateway, and protocols only by their list"},
	{"config", "gateway certs certs/acme certs/store certs/tickets upgraders upgraders/all", "it translates HCL for the gateway and knows protocols only by their list"},
	{"migrate", "upgraders", "it turns the text of other programs into text for config, and knows of protocols what their contract says"},
	{"certs/acme", "certs certs/store", "it talks to authorities and keeps what they issue, and knows nothing of who serves it"},
	{"certs", "", "where certificates come from is nobody else's affair: the gateway has an interface for it"},
	{"certs/tickets", "certs/store", "it keeps secrets, and what tickets are made of them is the gateway's affair"},
	{"certs/store", "", "it keeps bytes and knows nothing of what they are"},
	{"certs/acme/acmetest", "", "it runs an authority, for tests of whatever talks to one"},
	{"gateway", "upgraders internal/wire internal/relay", "it knows the contract, and no protocol, no file format, no source of certificates"},
	{"upgraders", "internal/wire", "it is the contract between gateway and protocols, and nothing else"},
	{"upgraders/all", "upgraders upgraders/*", "it is the list of protocols, and nothing else"},
	{"upgraders/upgradertest", "upgraders gateway internal/wire internal/relay", "it plays dialogues through the real gateway, for any protocol"},
	{"upgraders/lmtp", "upgraders upgraders/smtp internal/wire internal/relay", "LMTP is SMTP with other words, and knows nothing else"},
	{"upgraders/*", "upgraders internal/wire internal/relay internal/onehttp", "a protocol knows its own words, and neither the gateway nor another protocol"},
	{"internal/relay", "internal/wire", "it moves bytes and knows nothing of whose they are"},
	{"internal/onehttp", "upgraders internal/wire", "it serves a connection and knows nothing of whose it is"},
	{"internal/wire", "", "it reads bytes and knows nothing of whose they are"},
	{"integration", "", "it tests the binary from outside, as a client and a server would"},
}

// owners says which packages alone may import what others made.
var owners = []struct{ pkg, may, because string }{
	{"github.com/hashicorp/hcl", "config", "the gateway can then be configured without HCL"},
	{"github.com/zclconf/go-cty", "config", "the gateway can then be configured without HCL"},
	{"github.com/spf13", "cmd/*", "only commands have flags"},
	{"github.com/prometheus", "gateway cmd/* upgraders/upgradertest", "metrics are the gateway's: they have one file"},
	{"testing", "upgraders/upgradertest certs/acme/acmetest", "test helpers do not belong into the binary"},
	{"net/http/httptest", "certs/acme/acmetest", "test helpers do not belong into the binary"},
	{"go.uber.org/goleak", "upgraders/upgradertest", "test helpers do not belong into the binary"},
	{"github.com/google/go-cmp", "upgraders/upgradertest", "test helpers do not belong into the binary"},
	{"github.com/rogpeppe/go-internal", "upgraders/upgradertest", "test helpers do not belong into the binary"},
}

// imports keeps knowledge flowing one way.
func imports(h *tree) (complaints []string) {
	for _, name := range h.names(isCode) {
		pkg := path.Dir(name)
		layer := slices.IndexFunc(layers, func(l struct{ pkg, may, because string }) bool { return listed(l.pkg, pkg) })
		if layer < 0 {
			complaints = append(complaints, fmt.Sprintf("%s: package %s has no place: add it to layers in repo_test.go, with what it may import and why", name, pkg))
			continue
		}
		for _, spec := range h.code[name].Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if inner, ok := strings.CutPrefix(imported, module+"/"); ok {
				if l := layers[layer]; !listed(l.may, inner) {
					complaints = append(complaints, fmt.Sprintf("%s: %s must not import %s: %s (it may import: %s)", h.at(spec), pkg, inner, l.because, l.may))
				}
				continue
			}
			for _, o := range owners {
				if (imported == o.pkg || strings.HasPrefix(imported, o.pkg+"/")) && !listed(o.may, pkg) {
					complaints = append(complaints, fmt.Sprintf("%s: %s must not import %s: %s (its owner: %s)", h.at(spec), pkg, imported, o.because, o.may))
				}
			}
		}
	}
	return complaints
}

// listed reports whether a package matches one of the patterns of a list.
func listed(patterns, pkg string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool {
		ok, _ := path.Match(p, pkg)
		return ok
	})
}

// packageComments wants one place where a package says what it is.
func packageComments(h *tree) (complaints []string) {
	docs := make(map[string][]string)
	for _, name := range h.names(isCode) {
		dir, f := path.Dir(name), h.code[name]
		docs[dir] = append(docs[dir], nil...) // a package without any counts too
		if f.Doc == nil {
			continue
		}
		docs[dir] = append(docs[dir], name)
		if want := "Package " + f.Name.Name + " "; f.Name.Name != "main" && !strings.HasPrefix(f.Doc.Text(), want) {
			complaints = append(complaints, fmt.Sprintf("%s: the package comment must begin with %q, which is how go doc shows it", name, want))
		}
	}
	for dir, files := range docs {
		if len(files) != 1 {
			complaints = append(complaints, fmt.Sprintf("package %s has %d package comments %v: one file says what the package is, which RFCs it obeys and what it leaves out", dir, len(files), files))
		}
	}
	slices.Sort(complaints)
	return complaints
}

// noInit keeps the order of things visible in main.
func noInit(h *tree) (complaints []string) {
	for _, name := range h.names(isGo) {
		for _, decl := range h.code[name].Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				complaints = append(complaints, fmt.Sprintf("%s: func init runs behind everybody's back: call it from where it is needed; protocols are listed in upgraders/all", h.at(f)))
			}
		}
	}
	return complaints
}

// noSkips wants tests that cannot run to fail in CI: a test that is never run
// there holds nothing.
func noSkips(h *tree) (complaints []string) {
	for _, name := range h.names(isGo) {
		for _, decl := range h.code[name].Decls {
			var skips []ast.Node
			asksForCI := false
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				f, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				switch f.Sel.Name {
				case "Skip", "Skipf", "SkipNow":
					skips = append(skips, call)
				case "Getenv":
					arg, ok := call.Args[0].(*ast.BasicLit)
					asksForCI = asksForCI || ok && arg.Value == `"CI"`
				}
				return true
			})
			if asksForCI {
				continue
			}
			for _, skip := range skips {
				complaints = append(complaints, fmt.Sprintf("%s: a test is skipped: fail it where os.Getenv(\"CI\") is \"true\", since nothing may be skipped there", h.at(skip)))
			}
		}
	}
	return complaints
}

func formatted(h *tree) (complaints []string) {
	for _, name := range h.names(isGo) {
		if want, err := format.Source(h.files[name]); err != nil || !bytes.Equal(want, h.files[name]) {
			complaints = append(complaints, name+": not formatted: run `make fmt`")
		}
	}
	return complaints
}

var (
	// Written so that this file keeps the rule.
	leftover  = regexp.MustCompile(`\b(?:TO` + `DO|FIX` + `ME|X` + `XX)\b`)
	otherWord = regexp.MustCompile(`(?i)\bup` + `streams?\b`)
)

// noLeftovers wants things done, and called by one name.
func noLeftovers(h *tree) (complaints []string) {
	for _, name := range h.names(func(name string) bool { return name != "LICENSE" && !strings.HasPrefix(name, "testdata/") }) {
		n := 0
		for line := range bytes.Lines(h.files[name]) {
			n++
			if found := leftover.Find(line); found != nil {
				complaints = append(complaints, fmt.Sprintf("%s:%d: %s: do it now, or file an issue and leave no note in the code", name, n, found))
			}
			if found := otherWord.Find(line); found != nil && isGo(name) {
				complaints = append(complaints, fmt.Sprintf("%s:%d: %s: the word is backend: mail people call the sender by the other one", name, n, found))
			}
		}
	}
	return complaints
}

const rfcList = "docs/rfc.txt"

var (
	// A list of numbers goes on only with what cannot be a section or a reply
	// code: four digits, or three from 600 on.
	citation = regexp.MustCompile(`\bRFCs?[\s/]+(\d{3,4})\b((?:(?:,|,? and)[\s/]+(?:\d{4}|[6-9]\d\d)\b)*)`)
	number   = regexp.MustCompile(`\d{3,4}`)
	rfcLine  = regexp.MustCompile(`^(\d{3,4}) +(yes|partial|no) +(\S.*: \S.*)$`)
)

// citations holds each RFC that is cited against the list of those that are
// known, both ways.
func citations(h *tree) (complaints []string) {
	known, cited := make(map[string]bool), make(map[string]bool)
	last, n := 0, 0
	for line := range strings.Lines(string(h.files[rfcList])) {
		n++
		if line = strings.TrimRight(line, "\n"); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := rfcLine.FindStringSubmatch(line)
		if m == nil {
			complaints = append(complaints, fmt.Sprintf("%s:%d: want `NUMBER  yes|partial|no  TITLE: what is done and what is left out`, in columns", rfcList, n))
			continue
		}
		this, _ := strconv.Atoi(m[1])
		if this <= last {
			complaints = append(complaints, fmt.Sprintf("%s:%d: RFC %d stands behind RFC %d: keep the list in order, each once", rfcList, n, this, last))
		}
		last = this
		known[m[1]] = true
	}
	for _, name := range h.names(func(name string) bool { return isGo(name) || isDoc(name) || isScript(name) }) {
		for _, m := range citation.FindAllStringSubmatch(string(h.files[name]), -1) {
			for _, rfc := range append(number.FindAllString(m[2], -1), m[1]) {
				if !known[rfc] && !cited[rfc] {
					complaints = append(complaints, fmt.Sprintf("%s cites RFC %s, which is not in %s: add its line, and say honestly what of it is done", name, rfc, rfcList))
				}
				cited[rfc] = true
			}
		}
	}
	for rfc := range known {
		if !cited[rfc] {
			complaints = append(complaints, fmt.Sprintf("%s lists RFC %s, which nothing cites: cite it (`// RFC %s, SECTION: …`) where it is obeyed, or take the line out", rfcList, rfc, rfc))
		}
	}
	slices.Sort(complaints)
	return complaints
}

const (
	metricFile = "gateway/metrics.go"
	metricDoc  = "docs/operations.md"
)

var (
	metric     = regexp.MustCompile(`\bsallyport_[a-z0-9_]+\b`)
	metricForm = regexp.MustCompile(`^sallyport(_[a-z][a-z0-9]*)+$`)
	wrongUnit  = regexp.MustCompile(`_(ms|milliseconds|minutes|hours|days|kb|kib|kilobytes|megabytes|percent)(_total)?$`)
)

// metricNames keeps the names of metrics, which are API, in one file, in
// Prometheus' form (https://prometheus.io/docs/practices/naming/), and in the
// documentation.
func metricNames(h *tree) (complaints []string) {
	defined := make(map[string]bool)
	complain := func(n ast.Node, format string, args ...any) {
		complaints = append(complaints, h.at(n)+": "+fmt.Sprintf(format, args...))
	}
	if f := h.code[metricFile]; f != nil {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !strings.HasPrefix(fun.Sel.Name, "New") || len(call.Args) == 0 {
				return true
			}
			name, help := definition(call)
			if name == "" {
				return true
			}
			defined[name] = true
			counter := strings.HasPrefix(fun.Sel.Name, "NewCounter")
			switch {
			case !metricForm.MatchString(name):
				complain(call, "%s: want sallyport_WHAT_UNIT in small letters", name)
			case wrongUnit.MatchString(name):
				complain(call, "%s: want base units: seconds, bytes, ratio", name)
			case counter && !strings.HasSuffix(name, "_total"):
				complain(call, "%s is a counter: want a name that ends in _total", name)
			case !counter && fun.Sel.Name != "NewDesc" && strings.HasSuffix(name, "_total"):
				complain(call, "%s is no counter: want a name that does not end in _total", name)
			}
			if !strings.HasSuffix(help, ".") {
				complain(call, "%s: want a help text that is a sentence", name)
			}
			if !bytes.Contains(h.files[metricDoc], []byte(name)) {
				complain(call, "%s is not in %s: say there what it counts and when to worry", name, metricDoc)
			}
			return true
		})
	}
	for _, name := range h.names(isCode) {
		if name == metricFile || path.Dir(name) == "upgraders/upgradertest" {
			continue
		}
		ast.Inspect(h.code[name], func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, _ := strconv.Unquote(lit.Value); metric.FindString(text) == text && text != "" {
					complain(lit, "the metric %s is named outside %s: names are API and live in one file", text, metricFile)
				}
			}
			return true
		})
	}
	for _, name := range h.names(func(name string) bool { return isDoc(name) || isCode(name) && name != metricFile }) {
		for _, m := range metric.FindAllString(string(h.files[name]), -1) {
			base := m
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !defined[m] && !defined[base] {
				complaints = append(complaints, fmt.Sprintf("%s speaks of the metric %s, which %s does not have", name, m, metricFile))
			}
		}
	}
	return complaints
}

// definition returns name and help of a metric that a call of package
// prometheus makes: NewDesc(name, help, …) or NewKind(Opts{Name: …, Help: …}).
func definition(call *ast.CallExpr) (name, help string) {
	if name = literal(call.Args[0]); name != "" && len(call.Args) > 1 {
		return name, literal(call.Args[1])
	}
	opts, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return "", ""
	}
	for _, e := range opts.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			switch key, _ := kv.Key.(*ast.Ident); {
			case key == nil:
			case key.Name == "Name":
				name = literal(kv.Value)
			case key.Name == "Help":
				help = literal(kv.Value)
			}
		}
	}
	return name, help
}

func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(lit.Value)
	return text
}

var (
	fenced  = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$|`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
)

// links wants every relative link of the documentation to lead somewhere.
func links(h *tree) (complaints []string) {
	for _, name := range h.names(isDoc) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(string(h.files[name]), ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") {
				continue // elsewhere
			}
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			if _, err := fs.Stat(h.fsys, path.Clean(file)); err != nil {
				complaints = append(complaints, fmt.Sprintf("%s: the link to %s leads nowhere: %s does not exist", name, m[1], file))
			} else if anchor != "" && isDoc(file) && !slices.Contains(anchors(h.files[file]), anchor) {
				complaints = append(complaints, fmt.Sprintf("%s: the link to %s leads nowhere: no heading of %s makes that anchor", name, m[1], file))
			}
		}
	}
	return complaints
}

// anchors returns what GitHub makes of the headings of a page.
func anchors(text []byte) (found []string) {
	prose := regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAll(text, nil)
	for _, m := range heading.FindAllStringSubmatch(string(prose), -1) {
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		base := slug
		for n := 1; slices.Contains(found, slug); n++ {
			slug = fmt.Sprintf("%s-%d", base, n)
		}
		found = append(found, slug)
	}
	return found
}

// scripts wants each dialogue to open with the property it holds.
func scripts(h *tree) (complaints []string) {
	for _, name := range h.names(isScript) {
		first, _, _ := strings.Cut(string(h.files[name]), "\n")
		if text, ok := strings.CutPrefix(first, "# "); !ok || len(strings.Fields(text)) < 3 {
			complaints = append(complaints, name+": the first line must be a comment that says which property the dialogue holds, and which RFC or case asks for it")
		}
	}
	return complaints
}

const securityDoc = "docs/security.md"

var (
	caseID  = regexp.MustCompile(`\b[BDFGHILMNOPQSTVWX]-\d\d\b`)
	caseRow = regexp.MustCompile(`(?m)^\| ([A-Z]-\d\d) \| (.*) \| (.*) \|$`)
)

// cases holds the attacks that tests name against the table of those that are
// known, both ways. A test that the table does not show yet is no fault, since
// many hands write them; one that it shows and that is gone is.
func cases(h *tree) (complaints []string) {
	where := testedIn(h)
	rows := make(map[string]bool)
	for _, m := range caseRow.FindAllStringSubmatch(string(h.files[securityDoc]), -1) {
		id := m[1]
		rows[id] = true
		if where[id] == nil {
			complaints = append(complaints, fmt.Sprintf("%s: no test names case %s: test it, and write its number into the test's comment, name or script", securityDoc, id))
			continue
		}
		for group := range strings.SplitSeq(m[3], "; ") {
			pkg, names, _ := strings.Cut(group, ": ")
			for name := range strings.SplitSeq(names, ", ") {
				if !slices.Contains(where[id], [2]string{pkg, name}) {
					complaints = append(complaints, fmt.Sprintf("%s: case %s is not tested in %q: %q: run `go test . -update`", securityDoc, id, pkg, name))
				}
			}
		}
	}
	for id, tests := range where {
		if !rows[id] {
			complaints = append(complaints, fmt.Sprintf("%s: case %s is tested (%s) and not in the table: add its row", securityDoc, id, cell(tests)))
		}
	}
	slices.Sort(complaints)
	return complaints
}

// testedIn returns, for each case, the tests and scripts that name it, as
// package and NAME of NAME_test.go or NN of NN-name.txt.
func testedIn(h *tree) map[string][][2]string {
	where := make(map[string][][2]string)
	for _, name := range h.names(func(name string) bool { return isTest(name) && path.Dir(name) != "." || isScript(name) }) {
		pkg, protocol, _ := strings.Cut(path.Dir(name), "/testdata")
		if protocol != "" {
			pkg = protocol // one of several that the package has
		}
		short := strings.TrimSuffix(path.Base(name), "_test.go")
		if isScript(name) {
			short, _, _ = strings.Cut(short, "-")
		}
		ids := caseID.FindAllString(string(h.files[name]), -1)
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			where[id] = append(where[id], [2]string{path.Base(pkg), short})
		}
	}
	return where
}

// cell is how the table shows tests.
func cell(tests [][2]string) string {
	var out strings.Builder
	last := ""
	for _, t := range tests {
		switch pkg := t[0]; {
		case pkg == last:
			out.WriteString(", ")
		case last != "":
			out.WriteString("; " + pkg + ": ")
		default:
			out.WriteString(pkg + ": ")
		}
		out.WriteString(t[1])
		last = t[0]
	}
	return out.String()
}

// tested rewrites the last column of the table.
func tested(h *tree, doc []byte) []byte {
	where := testedIn(h)
	return caseRow.ReplaceAllFunc(doc, func(row []byte) []byte {
		m := caseRow.FindSubmatch(row)
		return fmt.Appendf(nil, "| %s | %s | %s |", m[1], m[2], cell(where[string(m[1])]))
	})
}
