package migrate

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A block is a block of HCL, or with off the same as a comment.
type block struct {
	comments []string
	kind     string
	labels   []string
	items    []item
	off      bool
}

// An item is an attribute, whose value is an expression, or a nested block.
type item struct {
	name, value string
	block       *block
}

// attr adds an attribute.
func (b *block) attr(name, expression string) {
	b.items = append(b.items, item{name: name, value: expression})
}

// text adds an attribute whose value is a string, unless it is empty.
func (b *block) text(name, value string) {
	if value != "" {
		b.attr(name, quote(value))
	}
}

// nest adds a block, unless there is nothing in it.
func (b *block) nest(inner *block) {
	if len(inner.items) > 0 {
		b.items = append(b.items, item{block: inner})
	}
}

// body is what is between the braces: by it, equal blocks are found.
func (b *block) body() string {
	var out strings.Builder
	b.writeBody(&out, "")
	return out.String()
}

func (b *block) String() string {
	var out strings.Builder
	for _, c := range b.comments {
		writeComment(&out, c)
	}
	var code strings.Builder
	b.write(&code, "")
	if !b.off {
		out.WriteString(code.String())
		return out.String()
	}
	for line := range strings.Lines(code.String()) {
		out.WriteString("# " + line)
	}
	return out.String()
}

func (b *block) write(out *strings.Builder, indent string) {
	out.WriteString(indent + b.kind)
	for _, l := range b.labels {
		out.WriteString(" " + quote(l))
	}
	out.WriteString(" {\n")
	b.writeBody(out, indent+"  ")
	out.WriteString(indent + "}\n")
}

// writeBody aligns attributes that follow one another, as `sallyport fmt` does.
func (b *block) writeBody(out *strings.Builder, indent string) {
	width := 0
	for i, it := range b.items {
		if it.block != nil {
			if i > 0 {
				out.WriteString("\n")
			}
			it.block.write(out, indent)
			continue
		}
		if i == 0 || b.items[i-1].block != nil {
			width = 0
			for _, next := range b.items[i:] {
				if next.block != nil {
					break
				}
				width = max(width, len(next.name))
			}
			if i > 0 {
				out.WriteString("\n")
			}
		}
		fmt.Fprintf(out, "%s%-*s = %s\n", indent, width, it.name, it.value)
	}
}

// writeComment breaks a long comment into lines.
func writeComment(out *strings.Builder, text string) {
	const width = 100
	line, lead := "#", " "
	for _, word := range strings.Fields(clean(text)) {
		if len(line) > 1 && len(line)+1+len(word) > width {
			out.WriteString(line + "\n")
			line, lead = "#", "   "
		}
		line += lead + word
		lead = " "
	}
	out.WriteString(line + "\n")
}

// quote writes a string so that nothing in it is syntax: quotes, and what would
// begin a template.
func quote(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	s = strings.ToValidUTF8(s, "\uFFFD")
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\r':
			out.WriteString(`\r`)
		case r == '\t':
			out.WriteString(`\t`)
		case (r == '$' || r == '%') && strings.HasPrefix(s[i+1:], "{"):
			out.WriteRune(r)
			out.WriteRune(r)
		case r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 || r == 0xFEFF:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// list writes a list of strings.
func list(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// printable is a text of others for a comment or a terminal, and not endless.
func printable(s string) string {
	const most = 200
	if s = clean(s); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// clean takes control characters and ends of lines out of a text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xFEFF || r == utf8.RuneError:
			return '?'
		case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return '?' // would turn the direction of what follows
		}
		return r
	}, s)
}
