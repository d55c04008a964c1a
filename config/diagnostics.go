package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Diagnostics are what is wrong (errors) or doubtful (warnings) in a
// configuration, in the order of the files.
type Diagnostics struct {
	list  hcl.Diagnostics
	files map[string]*hcl.File
}

var (
	_ error       = (*Diagnostics)(nil)
	_ io.WriterTo = (*Diagnostics)(nil)
)

// HasErrors reports whether there is an error among them.
func (d *Diagnostics) HasErrors() bool { return d.list.HasErrors() }

// Errors counts the errors.
func (d *Diagnostics) Errors() int { return d.count(hcl.DiagError) }

// Warnings counts the warnings.
func (d *Diagnostics) Warnings() int { return d.count(hcl.DiagWarning) }

func (d *Diagnostics) count(severity hcl.DiagnosticSeverity) (n int) {
	for _, diag := range d.list {
		if diag.Severity == severity {
			n++
		}
	}
	return n
}

// Err returns the Diagnostics when they hold an error, else nil.
func (d *Diagnostics) Err() error {
	if !d.HasErrors() {
		return nil
	}
	return d
}

// Error tells all errors in one line, for a log. Unlike WriteTo it shows
// nothing of the source, where a secret may be.
func (d *Diagnostics) Error() string {
	var parts []string
	for _, diag := range d.list {
		if diag.Severity == hcl.DiagError {
			parts = append(parts, oneLine(diag))
		}
	}
	return strings.Join(parts, "; ")
}

// AllWarnings returns the warnings, one line each, for a log.
func (d *Diagnostics) AllWarnings() (lines []string) {
	for _, diag := range d.list {
		if diag.Severity == hcl.DiagWarning {
			lines = append(lines, oneLine(diag))
		}
	}
	return lines
}

func oneLine(diag *hcl.Diagnostic) string {
	text := strings.Join(strings.Fields(diag.Summary+": "+diag.Detail), " ")
	if diag.Subject == nil {
		return text
	}
	return fmt.Sprintf("%s:%d: %s", diag.Subject.Filename, diag.Subject.Start.Line, text)
}

// WriteTo writes all of them for people, each with the lines it is about.
func (d *Diagnostics) WriteTo(w io.Writer) (int64, error) { return d.write(w, width, false) }

// WriteColor is WriteTo for a terminal that understands ANSI escapes.
func (d *Diagnostics) WriteColor(w io.Writer) (int64, error) { return d.write(w, width, true) }

const width = 78 // of a terminal, as far as one may assume

func (d *Diagnostics) write(w io.Writer, width uint, color bool) (int64, error) {
	const most = 100 // nobody reads more, and generated files can have thousands
	counted := &countingWriter{w: w}
	shown := d.list[:min(most, len(d.list))]
	err := hcl.NewDiagnosticTextWriter(counted, d.files, width, color).WriteDiagnostics(shown)
	if n := len(d.list) - most; n > 0 && err == nil {
		_, err = fmt.Fprintf(counted, "And %d more.\n\n", n)
	}
	return counted.n, err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// diagnostics returns what the loader collected: once each, in the order of
// the files.
func (l *loader) diagnostics() *Diagnostics {
	list := slices.Clone(l.diags)
	slices.SortStableFunc(list, func(a, b *hcl.Diagnostic) int {
		at, bt := subject(a), subject(b)
		return cmp.Or(
			cmp.Compare(l.order(at.Filename), l.order(bt.Filename)),
			cmp.Compare(at.Start.Byte, bt.Start.Byte),
			cmp.Compare(a.Severity, b.Severity),
			cmp.Compare(a.Summary, b.Summary),
			cmp.Compare(a.Detail, b.Detail),
		)
	})
	list = slices.CompactFunc(list, func(a, b *hcl.Diagnostic) bool {
		return subject(a) == subject(b) && a.Severity == b.Severity && a.Summary == b.Summary && a.Detail == b.Detail
	})
	return &Diagnostics{list: list, files: l.readable()}
}

// readable returns the files whose lines can be shown. One without line ends
// would be shown whole, and every time hcl looks for lines from the start.
func (l *loader) readable() map[string]*hcl.File {
	files := make(map[string]*hcl.File)
	for name, file := range l.files {
		longest := 0
		for line := range bytes.Lines(file.Bytes) {
			longest = max(longest, len(line))
		}
		if longest < 4<<10 && len(file.Bytes) < 256<<10 {
			files[name] = file
		}
	}
	return files
}

func subject(d *hcl.Diagnostic) hcl.Range {
	if d.Subject == nil {
		return hcl.Range{}
	}
	return *d.Subject
}

func (l *loader) order(file string) int { return slices.Index(l.names, file) }

func (l *loader) errorf(at hcl.Range, summary, detail string, args ...any) {
	l.report(hcl.DiagError, at, summary, detail, args)
}

func (l *loader) warnf(at hcl.Range, summary, detail string, args ...any) {
	l.report(hcl.DiagWarning, at, summary, detail, args)
}

func (l *loader) report(severity hcl.DiagnosticSeverity, at hcl.Range, summary, detail string, args []any) {
	if len(args) > 0 {
		detail = fmt.Sprintf(detail, args...)
	}
	l.add(hcl.Diagnostics{{Severity: severity, Subject: &at, Summary: summary, Detail: detail}})
}

// add takes over diagnostics of hcl. Their expressions are left behind: with
// them the values of variables would be printed, and those may be secrets.
func (l *loader) add(diags hcl.Diagnostics) {
	for _, d := range diags {
		d.Expression, d.EvalContext = nil, nil
		l.diags = append(l.diags, d)
	}
}

// sentence makes a sentence of an error. One that begins with a path keeps it
// as it is.
func sentence(err error) string {
	s := err.Error()
	for _, op := range []string{"stat ", "open ", "read "} { // of a fs.PathError
		if path, ok := strings.CutPrefix(s, op); ok {
			return path + "."
		}
	}
	if first, _, _ := strings.Cut(s, " "); s != "" && 'a' <= s[0] && s[0] <= 'z' && !strings.ContainsAny(first, "/.:_") {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	if !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "?") {
		s += "."
	}
	return s
}

// errQuiet is the error of what depends on something that was reported.
var errQuiet = errors.New("depends on an error reported elsewhere")
