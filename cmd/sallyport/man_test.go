package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sallyport/sallyport/config"
)

// The manual is written by a test, as docs/config.md is: what writes roff has no
// business in a binary that sees passwords. It is not committed, since nobody
// reads roff; scripts/build-deb.sh asks for it:
//
//	go test ./cmd/sallyport -run TestManual -man DIR
var manDir = flag.String("man", "", "write the manual pages to this `directory`, as DIR/man1 and DIR/man5")

// Each command has a page that says what its help does, the configuration has
// one that says what docs/config.md does, and man(1) finds no fault with them.
func TestManual(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	}
	pages := manual()
	for name, page := range pages {
		file := filepath.Join(dir, "man"+name[len(name)-1:], name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if *manDir != "" {
		return
	}
	for _, want := range []string{"sallyport.1", "sallyport-run.1", "sallyport-check.1", "sallyport.hcl.5"} {
		if pages[want] == "" {
			t.Errorf("there is no %s", want)
		}
	}
	if _, err := exec.LookPath("man"); err != nil {
		lacking(t, "man is not installed: apt-get install man-db")
	}
	shown := map[string]string{}
	for name := range pages {
		file := filepath.Join(dir, "man"+name[len(name)-1:], name)
		cmd := exec.Command("man", "--local-file", "--warnings", "-Tutf8", "--nj", "--nh", file)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=100", "GROFF_NO_SGR=1")
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Errorf("man %s: %v\n%s", name, err, &complaints)
		}
		shown[name] = regexp.MustCompile(".\b").ReplaceAllString(out.String(), "")
	}
	for name, texts := range map[string][]string{
		"sallyport.1": {"sallyport-run(1)", "sallyport.hcl(5)", "SEE ALSO", "NAME\n       sallyport - "},
		"sallyport-run.1": {
			"SYNOPSIS\n       sallyport run -c PATH", "-c, --config PATH", "--var name=value", "kill -HUP $(pidof sallyport)",
			"       SIGTERM and SIGINT stop accepting",
		},
		"sallyport.hcl.5": {"min_version", "NAME\n       sallyport.hcl - ", `listener "smtp" "mx" {`, "\nlistener \"protocol\" \"name\"\n"},
	} {
		for _, text := range texts {
			if !strings.Contains(shown[name], text) {
				t.Errorf("%s does not show %q:\n%s", name, text, shown[name])
			}
		}
	}
}

// A backslash, a quote or a line that begins with a dot means something to
// troff, and is only text here.
func TestManualText(t *testing.T) {
	for text, want := range map[string]string{
		`a\b`:       `a\eb`,
		".so /etc":  `\&.so /etc`,
		"'tis":      `\&\(aqtis`,
		"a\n.b\n'c": "a\n\\&.b\n\\&\\(aqc",
		"-c ~ ^":    `\-c \(ti \(ha`,
	} {
		if got := roff(text); got != want {
			t.Errorf("roff(%q) = %q, want %q", text, got, want)
		}
	}
}

// manual returns every page by its file name.
func manual() map[string]string {
	root := newRoot(strings.NewReader(""), new(bytes.Buffer), new(bytes.Buffer))
	pages := map[string]string{"sallyport.hcl.5": configPage()}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		pages[pageName(cmd)+".1"] = commandPage(cmd)
		for _, sub := range subcommands(cmd) {
			walk(sub)
		}
	}
	walk(root)
	return pages
}

// subcommands are those with a page of their own.
func subcommands(cmd *cobra.Command) (subs []*cobra.Command) {
	if cmd.Name() == "completion" {
		return nil // cobra's, and its own page says all
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			subs = append(subs, sub)
		}
	}
	return subs
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manDate is the day the pages are of: reproducible builds set it.
func manDate() string {
	now := time.Now()
	if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		now = time.Unix(seconds, 0)
	}
	return now.UTC().Format(time.DateOnly)
}

// commandPage writes a command's help as man(7).
func commandPage(cmd *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 %s sallyport \"sallyport manual\"\n", roff(strings.ToUpper(pageName(cmd))), roff(manDate()))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(cmd)), roff(strings.ToLower(cmd.Short[:1])+cmd.Short[1:]))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n%s\n", synopsis(cmd))
	b.WriteString(".SH DESCRIPTION\n")
	for i, paragraph := range strings.Split(strings.TrimSpace(cmd.Long), "\n\n") {
		switch {
		case strings.HasPrefix(paragraph, "  "):
			b.WriteString(verbatim(paragraph))
		case i > 0:
			b.WriteString(".PP\n")
			fallthrough
		default:
			b.WriteString(roff(paragraph) + "\n")
		}
	}
	if subs := subcommands(cmd); subs != nil {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range subs {
			fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(pageName(sub)), roff(sub.Short))
		}
	}
	if cmd.LocalFlags().HasAvailableFlags() {
		b.WriteString(".SH OPTIONS\n")
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				b.WriteString(option(f))
			}
		})
	}
	if cmd.Example != "" {
		b.WriteString(".SH EXAMPLES\n" + verbatim(cmd.Example))
	}
	b.WriteString(".SH SEE ALSO\n")
	if cmd.HasParent() {
		fmt.Fprintf(&b, ".BR %s (1),\n", roff(pageName(cmd.Parent())))
	}
	b.WriteString(".BR sallyport.hcl (5)\n")
	return b.String()
}

// synopsis sets what is typed in bold and what stands for something in italics.
func synopsis(cmd *cobra.Command) string {
	words := strings.Fields(strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath()))
	for i, w := range words {
		if strings.Trim(w, "[]./|") == strings.ToUpper(strings.Trim(w, "[]./|")) && strings.ToLower(w) != w {
			words[i] = `\fI` + roff(w) + `\fR`
		} else {
			words[i] = roff(w)
		}
	}
	return strings.TrimSpace(`\fB` + roff(cmd.CommandPath()) + `\fR ` + strings.Join(words, " "))
}

func option(f *pflag.Flag) string {
	value, usage := pflag.UnquoteUsage(f)
	names := `\fB\-\-` + roff(f.Name) + `\fR`
	if f.Shorthand != "" {
		names = `\fB\-` + roff(f.Shorthand) + `\fR, ` + names
	}
	if value != "" {
		names += ` \fI` + roff(value) + `\fR`
	}
	return ".TP\n" + names + "\n" + roff(usage) + "\n"
}

// verbatim sets lines as they are, without their common indent.
func verbatim(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = roff(strings.TrimPrefix(line, "  "))
	}
	return ".PP\n.RS 4\n.nf\n" + strings.Join(lines, "\n") + "\n.fi\n.RE\n"
}

// roff escapes what means something to troff.
func roff(text string) string {
	text = strings.NewReplacer(
		`\`, `\e`, "-", `\-`, "~", `\(ti`, "^", `\(ha`, "`", `\(ga`, "'", `\(aq`, `"`, `\(dq`,
	).Replace(text)
	return regexp.MustCompile(`(?m)^(\.|\\\(aq)`).ReplaceAllString(text, `\&$1`)
}

// configPage turns docs/config.md into a page of section 5.
func configPage() string {
	text := regexp.MustCompile(`(?s)^# .*?\n|<!--.*?-->\n`).ReplaceAllString(config.Markdown(), "")
	var b strings.Builder
	fmt.Fprintf(&b, ".TH SALLYPORT.HCL 5 %s sallyport \"sallyport manual\"\n", roff(manDate()))
	b.WriteString(".SH NAME\nsallyport.hcl \\- configuration of sallyport\n.SH DESCRIPTION\n")
	fenced, heads := false, []string(nil) // heads: of the table we are in
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		cells := strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, "\x00"), "|"), " | ")
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			b.WriteString(map[bool]string{true: ".PP\n.RS 4\n.nf\n", false: ".fi\n.RE\n"}[fenced])
		case fenced:
			b.WriteString(roff(line) + "\n")
		case strings.HasPrefix(line, "### "):
			b.WriteString(".SS " + inline(line[4:]) + "\n")
		case strings.HasPrefix(line, "## "):
			b.WriteString(".SH " + inline(line[3:]) + "\n")
		case strings.HasPrefix(line, "| --- "):
		case strings.HasPrefix(line, "|") && heads == nil:
			heads = cells
		case strings.HasPrefix(line, "|"):
			b.WriteString(row(heads, cells))
		case line == "":
			heads = nil
			b.WriteString(".PP\n")
		default:
			b.WriteString(inline(line) + "\n")
		}
	}
	b.WriteString(".SH SEE ALSO\n.BR sallyport (1),\n.BR sallyport\\-check (1),\n.BR sallyport\\-fmt (1)\n")
	// Space before a heading or an example is troff's affair.
	return regexp.MustCompile(`(?m)(?:^\.PP\n)+(\.SH|\.SS|\.PP|\.TP)`).ReplaceAllString(b.String(), "$1")
}

// row sets a row of a table as a term and what is said of it, since tables are
// wider than terminals.
func row(heads, cells []string) string {
	var facts, texts []string
	for i, cell := range cells[1:] {
		cell = strings.TrimSpace(cell)
		switch head := strings.TrimSpace(heads[i+1]); {
		case cell == "":
		case head == "default" && cell != "required":
			facts = append(facts, "default: "+cell)
		case head == "default", head == "type":
			facts = append(facts, cell)
		default:
			texts = append(texts, cell)
		}
	}
	if facts != nil {
		texts = append(texts, "("+strings.Join(facts, "; ")+")")
	}
	return ".TP\n" + inline(strings.TrimSpace(cells[0])) + "\n" + inline(strings.Join(texts, " ")) + "\n"
}

// inline sets code in bold, and links as their text.
func inline(text string) string {
	text = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")
	text = strings.NewReplacer("\x00", "|", `\"`, `"`, "*(", "(", ")*", ")").Replace(text)
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			part = "\x01" + part + "\x02"
		}
		b.WriteString(part)
	}
	return strings.NewReplacer("\x01", `\fB`, "\x02", `\fR`).Replace(roff(b.String()))
}
