package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// The schema is in struct tags. `hcl` is gohcl's grammar:
//
//	hcl:"name"           a required attribute
//	hcl:"name,optional"  an attribute
//	hcl:"name,label"     a label of the block, in order
//	hcl:"name,block"     a block: T (always there), *T (at most one) or []*T
//	hcl:",body"          the body as it is, for someone else to decode
//
// Beside it stand, for errors and documentation alike:
//
//	default:"10s"        the value where none is written
//	unset:"text"         what holds where none is written and no value says it
//	enum:"a|b"           the values there are
//	none:"text"          "none" may be written, and what it means
//	doc:"text"           what it is
//
// An attr keeps its place in the source. Structs of protocols' options have
// plain fields instead, whose defaults are the values they come with.

// An attr is an attribute, or a label, as it was written.
type attr[T any] struct {
	Value   T
	At      hcl.Range // of the value
	written bool
	bad     bool // what was written was reported as an error
}

// good reports whether a value was written and can be used.
func (a *attr[T]) good() bool { return a.written && !a.bad }

func (a *attr[T]) target() any { return &a.Value }

func (a *attr[T]) wrote(at hcl.Range, ok bool) { a.At, a.written, a.bad = at, true, !ok }

// An attribute is an attr of any type.
type attribute interface {
	target() any
	wrote(at hcl.Range, ok bool)
}

var _ attribute = (*attr[string])(nil)

// A block is embedded in the struct of each block.
type block struct {
	At hcl.Range // of its header
}

func (b *block) header(at hcl.Range) { b.At = at }

// A field is what the tags of a struct field say.
type field struct {
	name     string // of the attribute, block or label
	kind     string // attr, block, label or body
	required bool
	enum     []string
	def      string
	unset    string
	none     string
	doc      string
	index    int
	typ      reflect.Type
}

// elem returns the struct type of a block.
func (f *field) elem() reflect.Type {
	t := f.typ
	for t.Kind() != reflect.Struct {
		t = t.Elem()
	}
	return t
}

func fieldsOf(t reflect.Type) (fields []*field) {
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("hcl")
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		f := &field{
			name:  name,
			kind:  kind,
			def:   sf.Tag.Get("default"),
			unset: sf.Tag.Get("unset"),
			none:  sf.Tag.Get("none"),
			doc:   sf.Tag.Get("doc"),
			index: i,
			typ:   sf.Type,
		}
		if enum := sf.Tag.Get("enum"); enum != "" {
			f.enum = strings.Split(enum, "|")
		}
		if kind == "" || kind == "optional" {
			f.kind, f.required = "attr", kind == ""
		}
		fields = append(fields, f)
	}
	return fields
}

func schemaOf(fields []*field) *hcl.BodySchema {
	schema := &hcl.BodySchema{}
	for _, f := range fields {
		switch f.kind {
		case "attr":
			schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: f.name, Required: f.required})
		case "block":
			header := hcl.BlockHeaderSchema{Type: f.name}
			for _, label := range fieldsOf(f.elem()) {
				if label.kind == "label" {
					header.LabelNames = append(header.LabelNames, label.name)
				}
			}
			schema.Blocks = append(schema.Blocks, header)
		}
	}
	return schema
}

// A pending block has its labels, and its body is yet to be decoded.
type pending struct {
	path string
	body hcl.Body
	into reflect.Value
}

// content splits a body into attributes and blocks, by the fields of a struct.
func (l *loader) content(path string, body hcl.Body, fields []*field) *hcl.BodyContent {
	content, diags := body.Content(schemaOf(fields))
	for _, d := range diags {
		l.explainUnknown(path, fields, d)
	}
	l.add(diags)
	return content
}

// decode fills a struct from a body. path names the block, as in
// "backend.tls".
func (l *loader) decode(path string, body hcl.Body, into reflect.Value) {
	fields := fieldsOf(into.Type())
	if n := len(fields); n > 0 && fields[n-1].kind == "body" {
		into.Field(fields[n-1].index).Set(reflect.ValueOf(body))
		return
	}
	content := l.content(path, body, fields)
	for _, f := range fields {
		if a := content.Attributes[f.name]; a != nil && f.kind == "attr" {
			l.attribute(path, a, f, into.Field(f.index))
		}
	}
	for _, p := range l.place(path, content.Blocks, fields, into) {
		l.decode(p.path, p.body, p.into)
	}
}

func (l *loader) attribute(path string, a *hcl.Attribute, f *field, into reflect.Value) {
	at := a.Expr.Range()
	v, ok := l.eval(a.Expr)
	if ok && v.IsNull() { // as if it weren't written
		if f.required {
			l.errorf(at, "Missing value for "+f.name, "The attribute is required and null stands for none: write a value.")
		}
		return
	}
	l.refuseNotYet(path+"."+f.name, a.Range)
	target := into.Addr().Interface()
	kept, isAttr := target.(attribute)
	if isAttr {
		target = kept.target()
	}
	if ok {
		if err := l.assign(target, v, f); err != nil {
			ok = false
			l.unsuitable(f.name, at, err)
		}
	}
	if isAttr {
		kept.wrote(at, ok)
	}
}

func (l *loader) unsuitable(name string, at hcl.Range, err error) {
	if errors.Is(err, errQuiet) {
		return
	}
	detail := sentence(err)
	if errors.Is(err, errString) && isJSON(at.Filename) {
		detail += ` In JSON a reference stands in "${…}".`
	}
	l.errorf(at, "Unsuitable value for "+name, "%s", detail)
}

// place makes room for blocks in the struct that holds them, with their
// labels, and returns their bodies to be decoded.
func (l *loader) place(path string, blocks hcl.Blocks, fields []*field, into reflect.Value) (todo []pending) {
	byType := blocks.ByType()
	for _, f := range fields {
		if f.kind != "block" {
			continue
		}
		blockPath := strings.TrimPrefix(path+"."+f.name, ".")
		seen := make(map[string]*hcl.Block)
		for _, b := range byType[f.name] {
			l.refuseNotYet(blockPath, b.DefRange)
			key := ""
			if n := len(b.Labels); n > 0 {
				key = b.Labels[n-1]
			}
			repeats := f.typ.Kind() == reflect.Slice && len(b.Labels) == 0
			if first := seen[key]; first != nil && !repeats {
				l.duplicate(f.name, key, b.DefRange, first.DefRange)
				continue
			}
			seen[key] = b
			v := l.room(into.Field(f.index))
			l.labels(blockPath, b, v)
			todo = append(todo, pending{blockPath, b.Body, v})
		}
	}
	return todo
}

func (l *loader) duplicate(kind, name string, at, first hcl.Range) {
	what := kind
	if name != "" {
		what = fmt.Sprintf("%s %q", kind, name)
	}
	todo := "give one of them another name, or leave it out"
	if name == "" {
		todo = "write all of it in one block"
	}
	l.errorf(at, "Duplicate "+what, "There is one already at %s: %s.", where(first), todo)
}

// where tells where a range begins.
func where(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// room returns the struct for the next block of a field, with its defaults.
func (l *loader) room(field reflect.Value) reflect.Value {
	switch field.Kind() {
	case reflect.Slice:
		v := reflect.New(field.Type().Elem().Elem())
		field.Set(reflect.Append(field, v))
		l.defaults(v.Elem())
		return v.Elem()
	case reflect.Pointer:
		field.Set(reflect.New(field.Type().Elem()))
		l.defaults(field.Elem())
		return field.Elem()
	}
	return field // has its defaults, or what it inherits
}

func (l *loader) labels(path string, b *hcl.Block, v reflect.Value) {
	v.Addr().Interface().(interface{ header(hcl.Range) }).header(b.DefRange)
	n := 0
	for _, f := range fieldsOf(v.Type()) {
		if f.kind != "label" {
			continue
		}
		at := b.DefRange
		if n < len(b.LabelRanges) {
			at = b.LabelRanges[n]
		}
		a := v.Field(f.index).Addr().Interface().(attribute)
		err := l.assign(a.target(), cty.StringVal(b.Labels[n]), f)
		if err != nil {
			l.errorf(at, fmt.Sprintf("Unsuitable %s of a %s", f.name, path), "%s", sentence(err))
		}
		a.wrote(at, err == nil)
		n++
	}
}

// defaults gives a struct the values of its default tags. A tag that cannot be
// assigned is a mistake in this package, and a test decodes them all.
func (l *loader) defaults(v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		switch {
		case f.kind == "block" && fv.Kind() == reflect.Struct:
			l.defaults(fv)
		case f.kind == "attr" && f.def != "":
			if err := l.assign(fv.Addr().Interface().(attribute).target(), cty.StringVal(f.def), f); err != nil {
				panic(fmt.Sprintf("default of %s: %v", f.name, err))
			}
		}
	}
}
