package config

import (
	_ "embed"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
)

// manual is docs/config.md with calls in place of what the schema knows.
//
//go:embed manual.md
var manual string

// Markdown returns docs/config.md: the prose of manual.md and, from the schema,
// every block and attribute with its type, default and description.
func Markdown() string {
	m := markdown{newLoader(Options{})}
	t := template.Must(template.New("manual.md").Funcs(template.FuncMap{
		"schema":    m.schema,
		"functions": m.functions,
		"options":   m.options,
	}).Parse(manual))
	var out strings.Builder
	if err := t.Execute(&out, nil); err != nil {
		panic(err) // the manual is part of the program, and tested
	}
	return out.String()
}

type markdown struct{ *loader }

// schema describes a block of the root and all that are in it.
func (m markdown) schema(name string) string {
	var out strings.Builder
	walkSchema(func(path string, self *field, fields []*field) {
		switch {
		case path == name:
		case strings.HasPrefix(path, name+"."):
			fmt.Fprintf(&out, "\n### %s\n\n%s%s\n\n", m.heading(path, fields), self.doc, m.notYet(path, ""))
		default:
			return
		}
		m.attributes(&out, path, fields)
	})
	return strings.TrimSpace(out.String())
}

// heading is how a block begins: `server "address"` in `backend`.
func (m markdown) heading(path string, fields []*field) string {
	names := strings.Split(path, ".")
	heading := names[len(names)-1]
	for _, f := range fields {
		if f.kind == "label" {
			heading += fmt.Sprintf(" %q", f.name)
		}
	}
	return fmt.Sprintf("`%s` in `%s`", heading, strings.Join(names[:len(names)-1], "."))
}

func (m markdown) attributes(out *strings.Builder, path string, fields []*field) {
	head := "| attribute | type | default | |\n| --- | --- | --- | --- |\n"
	for _, f := range fields {
		if f.kind != "attr" {
			continue
		}
		value, _ := f.typ.FieldByName("Value") // of an attr[T]
		typ := value.Type
		fmt.Fprintf(out, "%s| `%s` | %s | %s | %s%s |\n", head, f.name, cell(m.typeName(typ, f)), cell(m.defaultOf(f, typ)), cell(f.doc), m.notYet(path+"."+f.name, f.none))
		head = ""
	}
}

func (m markdown) defaultOf(f *field, t reflect.Type) string {
	switch {
	case f.def != "" && (t.Kind() == reflect.Bool || t == reflect.TypeFor[int]() || t == reflect.TypeFor[count]()):
		return "`" + f.def + "`"
	case f.def != "":
		return "`\"" + f.def + "\"`"
	case f.unset != "":
		return f.unset
	case f.required:
		return "required"
	}
	return ""
}

// notYet says that a block or attribute is refused for now.
func (m markdown) notYet(path, none string) string {
	text := ""
	if none != "" {
		text = fmt.Sprintf("; `\"none\"`: %s", none)
	}
	if _, refused := notYet[path]; refused {
		text += " *(not available yet)*"
	}
	return text
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// functions describes what expressions can call.
func (m markdown) functions() string {
	var out strings.Builder
	out.WriteString("| function | |\n| --- | --- |\n")
	table := m.loader.functions()
	for _, name := range slices.Sorted(maps.Keys(table)) {
		f := table[name]
		var params []string
		for _, p := range f.Params() {
			params = append(params, p.Name)
		}
		if p := f.VarParam(); p != nil {
			params = append(params, p.Name+"…")
		}
		text, _, _ := strings.Cut(f.Description(), "\n")
		fmt.Fprintf(&out, "| `%s(%s)` | %s |\n", name, strings.Join(params, ", "), cell(text))
	}
	return strings.TrimSpace(out.String())
}

// options describes the options blocks of all protocols.
func (m markdown) options() string {
	var out strings.Builder
	out.WriteString("| protocol | option | type | default | |\n| --- | --- | --- | --- | --- |\n")
	for _, p := range m.protocols {
		if p.Options == nil {
			continue
		}
		v := reflect.ValueOf(p.Options()).Elem()
		for _, f := range fieldsOf(v.Type()) {
			fmt.Fprintf(&out, "| %s | `%s` | %s | %s | %s |\n", p.Name, f.name, m.typeName(f.typ, f), literal(v.Field(f.index)), cell(f.doc))
		}
	}
	return strings.TrimSpace(out.String())
}

// literal writes the default of an option as HCL would.
func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case bool, int:
		return fmt.Sprintf("`%v`", x)
	}
	if v.IsZero() {
		return ""
	}
	return fmt.Sprintf("`\"%v\"`", v.Interface())
}
