package migrate

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// The syntax of stunnel.conf(5), as options.c of stunnel 5 reads it: a line is
// a comment (; or # first), a [section] or option = value. Nothing is quoted,
// no line goes on in the next, and a name may stand several times. Options
// before the first section are global, or defaults of every section.

type stunnelOption struct {
	place
	written string
	name    string // as stunnel compares them: in small letters
	value   string
}

type stunnelService struct {
	place
	name    string
	options []stunnelOption
}

type stunnelConf struct {
	globals  []stunnelOption
	services []*stunnelService
}

// maxIncludes bounds files that include each other.
const maxIncludes = 200

type stunnelReader struct {
	stunnelConf
	include func(string) ([]File, error)
	files   int
}

func readStunnel(f File, include func(string) ([]File, error)) (*stunnelConf, error) {
	r := &stunnelReader{include: include}
	if err := r.read(f); err != nil {
		return nil, err
	}
	return &r.stunnelConf, nil
}

func (r *stunnelReader) read(f File) error {
	if r.files++; r.files > maxIncludes {
		return fmt.Errorf("%s: more than %d files: does one include itself?", f.Name, maxIncludes)
	}
	n := 0
	for raw := range bytes.Lines(withoutBOM(f.Text)) {
		n++
		at := place{file: f.Name, line: n}
		line := strings.TrimSpace(strings.ReplaceAll(string(raw), "\r", ""))
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[' && line[len(line)-1] == ']':
			r.services = append(r.services, &stunnelService{place: at, name: line[1 : len(line)-1]})
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return fmt.Errorf("%s:%d: neither a [section] nor option = value, as stunnel would say too", f.Name, n)
		}
		o := stunnelOption{place: at, written: name, name: strings.ToLower(name), value: strings.TrimSpace(value)}
		if o.name == "include" && r.include != nil {
			if err := r.follow(o); err != nil {
				return err
			}
			continue
		}
		if last := len(r.services) - 1; last >= 0 {
			r.services[last].options = append(r.services[last].options, o)
		} else {
			r.globals = append(r.globals, o)
		}
	}
	return nil
}

func (r *stunnelReader) follow(o stunnelOption) error {
	files, err := r.include(path.Join(o.value, "*"))
	if err != nil {
		return fmt.Errorf("%s:%d: include: %w", o.file, o.line, err)
	}
	for _, f := range files {
		if err := r.read(f); err != nil {
			return err
		}
	}
	return nil
}
