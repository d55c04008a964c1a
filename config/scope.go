package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// A variableBlock is a value that may be given from outside.
type variableBlock struct {
	block
	Name        attr[ident]     `hcl:"name,label"`
	Default     attr[cty.Value] `hcl:"default,optional" unset:"a value must be given" doc:"the value where none is given; a value that is given has the type of the default"`
	Description attr[string]    `hcl:"description,optional" doc:"what the variable is for"`
}

// A localsBlock names expressions.
type localsBlock struct {
	block
	Body hcl.Body `hcl:",body"`
}

// A scope holds what expressions can refer to: by the name before the dot,
// then by the name behind it.
type scope map[string]map[string]cty.Value

// define sets all that stands behind one name.
func (l *loader) define(name string, values map[string]cty.Value) {
	l.scope[name] = values
	l.evalContext.Variables[name] = cty.ObjectVal(values)
}

// eval returns the value of an expression, and whether it can be used; if not,
// that was reported.
func (l *loader) eval(expr hcl.Expression) (cty.Value, bool) {
	known := true
	for _, traversal := range expr.Variables() {
		known = l.resolves(traversal) && known
	}
	if !known {
		return cty.DynamicVal, false
	}
	v, diags := expr.Value(l.evalContext)
	l.add(diags)
	return v, !diags.HasErrors()
}

// resolves checks that what an expression refers to exists. hcl would find out
// too, but doesn't know what could have been meant.
func (l *loader) resolves(t hcl.Traversal) bool {
	root := t.RootName()
	at := t.SourceRange()
	values, ok := l.scope[root]
	if !ok {
		l.errorf(at, "Unknown name", "There is nothing named %q here%s", root, l.insteadOfRoot(root))
		return false
	}
	name, ok := stepOf(t)
	if !ok {
		l.use(root, "")
		return true // the whole, or an expression in brackets: hcl will look
	}
	if _, ok := values[name]; ok {
		l.use(root, name)
		return true
	}
	l.errorf(at, "Unknown reference", "There is no %s.%s%s", root, name, l.instead(root, name))
	return false
}

// stepOf returns the name behind the first dot, where there is one.
func stepOf(t hcl.Traversal) (string, bool) {
	if len(t) < 2 {
		return "", false
	}
	switch s := t[1].(type) {
	case hcl.TraverseAttr:
		return s.Name, true
	case hcl.TraverseIndex:
		if s.Key.Type() == cty.String && s.Key.IsKnown() && !s.Key.IsNull() {
			return s.Key.AsString(), true
		}
	}
	return "", false
}

// instead says which reference to write instead of one to name.
func (l *loader) instead(kind, name string) string {
	names := slices.Sorted(maps.Keys(l.scope[kind]))
	if near := suggest(name, names); near != "" {
		return fmt.Sprintf(": write %s.%s.", kind, near)
	}
	if len(names) > 0 {
		const shown = 8
		list := kind + "." + strings.Join(names[:min(shown, len(names))], ", "+kind+".")
		if len(names) > shown {
			list += ", …"
		}
		return ": write " + list + "."
	}
	switch kind {
	case "var":
		return fmt.Sprintf(": write variable %q {} to have it.", name)
	case "local":
		return fmt.Sprintf(": write locals { %s = … } to have it.", name)
	}
	if !hclsyntax.ValidIdentifier(name) {
		name = "name"
	}
	return fmt.Sprintf(": write a block %s %q { … } and refer to it as %s.%s.", kind, name, kind, name)
}

// insteadOfRoot does so for a name without a dot, perhaps that of a block.
func (l *loader) insteadOfRoot(name string) string {
	for _, kind := range slices.Sorted(maps.Keys(l.scope)) {
		if _, ok := l.scope[kind][name]; ok {
			return fmt.Sprintf(": write %s.%s.", kind, name)
		}
	}
	roots := slices.Sorted(maps.Keys(l.scope))
	if near := suggest(name, roots); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	if len(roots) == 0 {
		return ": the default of a variable cannot refer to anything."
	}
	return fmt.Sprintf(": a string is written in quotes, and references begin with %s.", strings.Join(roots, ", "))
}

// variables gives each variable its value: from Options, the environment or
// its default.
func (l *loader) variables() {
	values := make(map[string]cty.Value)
	for _, b := range l.root.Variables {
		if b.Name.bad {
			continue
		}
		values[string(b.Name.Value)] = l.variable(b)
	}
	for _, name := range slices.Sorted(maps.Keys(l.vars)) {
		if _, ok := values[name]; !ok {
			l.add(hcl.Diagnostics{{
				Severity: hcl.DiagError,
				Summary:  "Unknown variable " + name,
				Detail:   fmt.Sprintf("A value is given for a variable that has no block: write variable %q {}, or leave the value out.%s", name, didYouMean(name, slices.Sorted(maps.Keys(values)))),
			}})
		}
	}
	l.define("var", values)
}

func (l *loader) variable(b *variableBlock) cty.Value {
	name := string(b.Name.Value)
	env := "SALLYPORT_VAR_" + strings.ReplaceAll(name, "-", "_")
	text, given := l.vars[name]
	from := "-var " + name
	if !given {
		text, given = l.getenv(env)
		from = env
	}
	switch {
	case given:
		v, err := l.parseVariable(b, text)
		if err != nil {
			l.errorf(b.At, "Unsuitable value for the variable "+name, "What %s gives is unsuitable: %s", from, sentence(err))
		}
		return v
	case b.Default.good():
		return b.Default.Value
	case !b.Default.written:
		l.errorf(b.At, "The variable "+name+" has no value", "Give it one with -var %s=… or %s, or write a default.", name, env)
	}
	return cty.DynamicVal
}

// parseVariable reads the text of a value as the default's type wants it.
func (l *loader) parseVariable(b *variableBlock, text string) (cty.Value, error) {
	want := cty.String
	if b.Default.good() {
		want = b.Default.Value.Type()
	}
	if want.IsPrimitiveType() {
		v, err := convert.Convert(cty.StringVal(text), want)
		if err != nil {
			return cty.DynamicVal, fmt.Errorf("write a %s, as the default is", want.FriendlyName())
		}
		return v, nil
	}
	expr, diags := hclsyntax.ParseExpression([]byte(text), "", hcl.InitialPos)
	if !diags.HasErrors() {
		var v cty.Value
		if v, diags = expr.Value(nil); !diags.HasErrors() {
			return v, nil
		}
	}
	return cty.DynamicVal, fmt.Errorf(`write it as in the configuration, such as ["a", "b"]: %s`, diags[0].Summary)
}

// references makes an object of each kind of block that others may refer to.
// The capsules hold pointers to structs that are filled later.
func (l *loader) references() {
	root := reflect.ValueOf(&l.root).Elem()
	for _, f := range fieldsOf(root.Type()) {
		if !reflect.PointerTo(f.elem()).Implements(reflect.TypeFor[referable]()) {
			continue
		}
		capsule := cty.Capsule(f.name, f.elem())
		values := make(map[string]cty.Value)
		blocks := root.Field(f.index)
		for i := range blocks.Len() {
			b := blocks.Index(i).Interface()
			if label := b.(referable).label(); label != "" {
				values[label] = cty.CapsuleVal(capsule, b)
			}
		}
		l.define(f.name, values)
	}
}

// A referable is a block that others refer to.
type referable interface{ label() string }

// kindOf returns the name of the blocks that a struct stands for.
func (l *loader) kindOf(t reflect.Type) string {
	for _, f := range fieldsOf(reflect.TypeFor[root]()) {
		if f.elem() == t {
			return f.name
		}
	}
	panic("no block of the configuration is a " + t.String())
}

func labelOf(capsule cty.Value) string { return capsule.EncapsulatedValue().(referable).label() }

// locals evaluates the attributes of all locals blocks, those first that
// others depend on.
func (l *loader) locals() {
	attrs := make(map[string]*hcl.Attribute)
	for _, b := range l.root.Locals {
		found, diags := b.Body.JustAttributes()
		l.add(diags)
		for _, name := range slices.Sorted(maps.Keys(found)) {
			if first := attrs[name]; first != nil {
				l.duplicate("local", name, found[name].NameRange, first.NameRange)
				continue
			}
			attrs[name] = found[name]
		}
	}
	values := make(map[string]cty.Value)
	for name := range attrs {
		values[name] = cty.DynamicVal // until it is known
	}
	l.define("local", values)
	done := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		l.local(name, attrs, done, nil)
	}
}

func (l *loader) local(name string, attrs map[string]*hcl.Attribute, done map[string]bool, path []string) {
	a := attrs[name]
	if a == nil || done[name] {
		return
	}
	if i := slices.Index(path, name); i >= 0 {
		circle := strings.Join(append(path[i:], name), " -> local.")
		l.errorf(a.NameRange, "Circular locals", "The value depends on itself: local.%s. Write one of them without the others.", circle)
		done[name] = true
		return
	}
	for _, t := range a.Expr.Variables() {
		if t.RootName() != "local" {
			continue
		}
		if dep, ok := stepOf(t); ok {
			l.local(dep, attrs, done, append(path, name))
			continue
		}
		l.errorf(t.SourceRange(), "Unsuitable reference", "Among locals, write which one is meant: local.name.")
		done[name] = true
	}
	if done[name] { // reported
		return
	}
	done[name] = true
	if v, ok := l.eval(a.Expr); ok {
		values := l.scope["local"]
		values[name] = v
		l.define("local", values)
	}
}

// explainUnknown adds to hcl's diagnostics of names it doesn't know what could
// be written there, or where the name belongs.
func (l *loader) explainUnknown(path string, fields []*field, d *hcl.Diagnostic) {
	switch d.Summary {
	case "Unsupported argument", "Unsupported block type", "Extraneous JSON object property":
	default:
		return
	}
	if d.Subject == nil || strings.Contains(d.Detail, "Did you mean") {
		return
	}
	file := l.files[d.Subject.Filename]
	if file == nil || !d.Subject.CanSliceBytes(file.Bytes) {
		return
	}
	name := strings.Trim(string(d.Subject.SliceBytes(file.Bytes)), `"`)
	if homes := homesOf(name); len(homes) > 0 {
		d.Detail += " It belongs in " + strings.Join(homes, " or ") + "."
		return
	}
	var known []string
	for _, f := range fields {
		if f.kind == "attr" || f.kind == "block" {
			known = append(known, f.name)
		}
	}
	if len(known) == 0 {
		d.Detail += fmt.Sprintf(" Nothing is written in a %s block.", path)
		return
	}
	slices.Sort(known)
	d.Detail += " Known here: " + strings.Join(known, ", ") + "."
}

// homesOf returns the blocks in which a name is known.
func homesOf(name string) (homes []string) {
	walkSchema(func(path string, _ *field, fields []*field) {
		for _, f := range fields {
			switch {
			case f.name != name:
			case path != "":
				homes = append(homes, path)
			case f.kind == "block":
				homes = append(homes, "the file, outside of all blocks")
			}
		}
	})
	return homes
}

// walkSchema visits every block of the schema, in order, the root first with
// an empty path.
func walkSchema(visit func(path string, self *field, fields []*field)) {
	var walk func(path string, self *field, t reflect.Type)
	walk = func(path string, self *field, t reflect.Type) {
		fields := fieldsOf(t)
		visit(path, self, fields)
		for _, f := range fields {
			if f.kind == "block" {
				walk(strings.TrimPrefix(path+"."+f.name, "."), f, f.elem())
			}
		}
	}
	walk("", nil, reflect.TypeFor[root]())
}

func didYouMean(name string, names []string) string {
	if near := suggest(name, names); near != "" {
		return fmt.Sprintf(" Did you mean %q?", near)
	}
	return ""
}

// suggest returns the name that is nearest to one that is unknown, or "".
func suggest(name string, names []string) string {
	best, nearest := "", 1+min((len(name)+1)/3, 3)
	for _, n := range names {
		if max(len(n)-len(name), len(name)-len(n)) >= nearest {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(n)); d < nearest {
			best, nearest = n, d
		}
	}
	return best
}

// distance counts the letters to change, add, drop or swap to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
