// Package migrate turns the configuration of another gateway, stunnel or nginx
// (its mail and stream blocks), into HCL that `sallyport check` accepts.
//
// Three rules decide what becomes of a setting:
//
//   - What has a counterpart is carried over as it was meant, even where
//     sallyport's own default would be better.
//   - What has none is named, with its line and the reason, as a comment beside
//     the block it would belong to and in Result.Notes. Nothing is dropped in
//     silence.
//   - The result never lets in more than the original did. A listener whose
//     guard cannot be carried over (a revocation list, allow and deny) is written
//     as a comment, whole, for a person to decide on.
//
// Each program has a file for its syntax (stunnelconf.go, nginxconf.go) and
// files that say what its settings mean (stunnel.go, nginx.go, nginxmail.go,
// nginxstream.go). They fill a draft (draft.go), which is written as HCL by
// hcl.go. The package reads no file: includes come through Options.
package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/upgraders"
)

// The programs whose configuration can be read.
const (
	Stunnel = "stunnel"
	Nginx   = "nginx"
)

// Programs returns the names that Convert takes.
func Programs() []string { return []string{Stunnel, Nginx} }

// A File is a configuration file that was read.
type File struct {
	Name string
	Text []byte
}

// Options is what a conversion needs to know besides the file.
type Options struct {
	// Protocols are those that a listener may speak. A service of any other
	// is not carried over.
	Protocols []*upgraders.Protocol

	// Include returns the files that an include directive means: those a
	// pattern matches (nginx), or those in a directory (stunnel), in order.
	// Nil: includes are named as not carried over.
	Include func(pattern string) ([]File, error)

	// Dir is where relative paths of nginx begin: the directory of nginx.conf.
	Dir string
}

// A Result is a configuration in HCL and what was lost on the way.
type Result struct {
	HCL       []byte
	Listeners int // that are no comments; without any, check refuses the file
	Notes     []Note
}

// A Note names a setting that was not carried over, or that became something
// else.
type Note struct {
	File  string
	Line  int
	Where string // the service or server; empty: the whole file
	What  string // the setting
	Why   string // and what to do instead
	Lost  bool   // not carried over
}

// String is the note in a line.
func (n Note) String() string {
	where := ""
	if n.Where != "" {
		where = n.Where + ": "
	}
	return fmt.Sprintf("%s:%d: %s%s", printable(n.File), n.Line, where, n.text())
}

func (n Note) text() string {
	verb := ""
	if n.Lost {
		verb = " is not carried over"
	}
	return n.What + verb + ": " + n.Why
}

// Convert translates the configuration of one of Programs, for nginx also as
// nginx -T prints it. An error means that the program itself would not read
// the file.
func Convert(program string, file File, opts Options) (*Result, error) {
	d := &draft{program: program, source: file.Name, protocols: opts.Protocols}
	var err error
	switch program {
	case Stunnel:
		err = d.stunnel(file, opts)
	case Nginx:
		err = d.nginx(file, opts)
	default:
		err = fmt.Errorf("%q cannot be read: write %s", program, strings.Join(Programs(), " or "))
	}
	if err != nil {
		return nil, err
	}
	return d.result(), nil
}

// ErrUnknown says that a file is not known to be of any program.
var ErrUnknown = errors.New("neither a stunnel nor an nginx configuration")

var (
	stunnelLine = regexp.MustCompile(`(?mi)^[ \t]*(?:\[[^\]\n]+\][ \t\r]*$|(?:accept|connect|cert)[ \t]*=)`)
	nginxLine   = regexp.MustCompile(`(?m)^[ \t]*(?:(?:mail|stream|http|events|server)[ \t\r\n]*\{|(?:worker_processes|include|load_module|user)[ \t]+[^;={}]+;)`)
)

// Detect tells which program a file configures, by what is in it, else by its
// name.
func Detect(file File) (program string, err error) {
	stunnel, nginx := stunnelLine.Match(file.Text), nginxLine.Match(file.Text)
	base := path.Base(strings.ReplaceAll(file.Name, `\`, "/"))
	switch {
	case stunnel && !nginx:
		return Stunnel, nil
	case nginx && !stunnel:
		return Nginx, nil
	case strings.Contains(base, Stunnel):
		return Stunnel, nil
	case strings.Contains(base, Nginx):
		return Nginx, nil
	}
	return "", ErrUnknown
}

// withoutBOM takes off the mark that Windows editors put before a text.
func withoutBOM(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) }
