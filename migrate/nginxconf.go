package migrate

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// The syntax of nginx.conf, as ngx_conf_file.c reads it: words separated by
// white space, a directive ends with ; or with a block in braces. A quote or #
// means something only where a word begins, a backslash takes the meaning from
// what follows, and ${name} is part of a word.

// A directive is one of nginx: a name, its arguments, and perhaps a block.
type directive struct {
	place
	name   string
	args   []string
	block  []*directive
	braces bool // a block, perhaps an empty one
}

// arg returns an argument, or "".
func (d *directive) arg(i int) string {
	if i < len(d.args) {
		return d.args[i]
	}
	return ""
}

// String is the directive as it was written, more or less.
func (d *directive) String() string { return strings.Join(append([]string{d.name}, d.args...), " ") }

const maxDepth = 50 // of blocks in blocks; nginx has no use for more than 6

type nginxReader struct {
	include func(string) ([]File, error)
	files   int
	text    string
	file    string
	pos     int
	line    int
}

func readNginx(f File, include func(string) ([]File, error)) ([]*directive, error) {
	r := &nginxReader{include: include, text: string(withoutBOM(f.Text)), file: f.Name, line: 1}
	return r.block(0, "")
}

func (r *nginxReader) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s, as nginx would say too", r.file, r.line, fmt.Sprintf(format, args...))
}

// block reads directives to the end of the block, or of the file.
func (r *nginxReader) block(depth int, within string) (list []*directive, err error) {
	if depth > maxDepth {
		return nil, r.errorf("blocks are nested too deeply")
	}
	for {
		d := &directive{}
		for {
			r.skip()
			if r.pos == len(r.text) {
				switch {
				case d.name != "":
					return nil, r.errorf("%s has no ; at its end", printable(d.name))
				case depth > 0:
					return nil, r.errorf("a } is missing")
				}
				return list, nil
			}
			c := r.text[r.pos]
			switch {
			case c == ';' || c == '{':
				if d.name == "" {
					return nil, r.errorf("unexpected %q", c)
				}
				r.pos++
			case c == '}':
				if d.name != "" || depth == 0 {
					return nil, r.errorf(`unexpected "}"`)
				}
				r.pos++
				return list, nil
			default:
				at := place{file: r.file, line: r.line}
				word, err := r.word()
				if err != nil {
					return nil, err
				}
				if d.place == (place{}) {
					d.place, d.name = at, word
				} else {
					d.args = append(d.args, word)
				}
				continue
			}
			if c == '{' {
				d.braces = true
				if d.block, err = r.block(depth+1, d.name); err != nil {
					return nil, err
				}
			}
			break
		}
		if d.name == "include" && within != "http" && within != "map" && within != "types" && r.include != nil {
			included, err := r.follow(d, within)
			if err != nil {
				return nil, err
			}
			list = append(list, included...)
			continue
		}
		list = append(list, d)
	}
}

// follow reads the files that an include names.
func (r *nginxReader) follow(d *directive, within string) (list []*directive, err error) {
	files, err := r.include(d.arg(0))
	if err != nil {
		return nil, fmt.Errorf("%s:%d: include: %w", d.file, d.line, err)
	}
	for _, f := range files {
		if r.files++; r.files > maxIncludes {
			return nil, fmt.Errorf("%s: more than %d files: does one include itself?", f.Name, maxIncludes)
		}
		inner := &nginxReader{include: r.include, files: r.files, text: string(withoutBOM(f.Text)), file: f.Name, line: 1}
		directives, err := inner.block(0, within) // a } of its own would close nothing
		if err != nil {
			return nil, err
		}
		r.files = inner.files
		list = append(list, directives...)
	}
	return list, nil
}

// skip goes on to where the next word or sign begins.
func (r *nginxReader) skip() {
	for r.pos < len(r.text) {
		switch r.text[r.pos] {
		case '\n':
			r.line++
		case ' ', '\t', '\r':
		case '#':
			end := strings.IndexByte(r.text[r.pos:], '\n')
			if end < 0 {
				r.pos = len(r.text)
				return
			}
			r.pos += end
			continue
		default:
			return
		}
		r.pos++
	}
}

// word reads a word that begins here.
func (r *nginxReader) word() (string, error) {
	quote := r.text[r.pos]
	if quote != '"' && quote != '\'' {
		return r.bare()
	}
	r.pos++
	var out strings.Builder
	for r.pos < len(r.text) {
		c := r.text[r.pos]
		switch {
		case c == quote:
			r.pos++
			if r.pos < len(r.text) && !strings.ContainsRune(" \t\r\n;{)", rune(r.text[r.pos])) {
				return "", r.errorf("unexpected %q behind a quote", r.text[r.pos])
			}
			return out.String(), nil
		case c == '\\':
			r.escape(&out)
			continue
		case c == '\n':
			r.line++
		}
		out.WriteByte(c)
		r.pos++
	}
	return "", r.errorf("a quote is not closed")
}

func (r *nginxReader) bare() (string, error) {
	var out strings.Builder
	for r.pos < len(r.text) {
		c := r.text[r.pos]
		switch {
		case c == '\\':
			r.escape(&out)
			continue
		case c == '$' && strings.HasPrefix(r.text[r.pos+1:], "{"):
			out.WriteString("${")
			r.pos += 2
			continue
		case strings.IndexByte(" \t\r\n;{", c) >= 0:
			return out.String(), nil
		}
		out.WriteByte(c)
		r.pos++
	}
	return out.String(), nil
}

// escape reads a backslash and what it is before. Unknown pairs stay as they
// are, which regular expressions live on.
func (r *nginxReader) escape(out *strings.Builder) {
	r.pos++
	if r.pos == len(r.text) {
		out.WriteByte('\\')
		return
	}
	switch c := r.text[r.pos]; c {
	case '"', '\'', '\\':
		out.WriteByte(c)
	case 't':
		out.WriteByte('\t')
	case 'r':
		out.WriteByte('\r')
	case 'n':
		out.WriteByte('\n')
	default:
		if c == '\n' {
			r.line++
		}
		out.WriteByte('\\')
		out.WriteByte(c)
	}
	r.pos++
}

var dumpLine = regexp.MustCompile(`(?m)^# configuration file (/.*):$`)

// undump takes apart what nginx -T prints: the main file and all that it
// includes, one after the other, each behind a line with its name.
func undump(f File, opts Options) (File, Options) {
	marks := dumpLine.FindAllSubmatchIndex(f.Text, -1)
	if len(marks) == 0 {
		return f, opts
	}
	var files []File
	for i, m := range marks {
		end := len(f.Text)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		begin := min(m[1]+1, end)
		files = append(files, File{Name: string(f.Text[m[2]:m[3]]), Text: f.Text[begin:end]})
	}
	opts.Dir = path.Dir(files[0].Name)
	opts.Include = func(pattern string) (matching []File, err error) {
		if !path.IsAbs(pattern) {
			pattern = path.Join(opts.Dir, pattern)
		}
		for _, f := range files[1:] {
			// A pattern that is none was no problem for nginx either.
			if ok, _ := path.Match(pattern, f.Name); ok || pattern == f.Name {
				matching = append(matching, f)
			}
		}
		return matching, nil
	}
	return files[0], opts
}
