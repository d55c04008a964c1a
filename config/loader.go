package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/certs/tickets"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// A root is a whole configuration, as it was written. The blocks are in the
// order in which docs/config.md shows them.
type root struct {
	Variables    []*variableBlock    `hcl:"variable,block"`
	Locals       []*localsBlock      `hcl:"locals,block"`
	Log          logBlock            `hcl:"log,block"`
	Admin        adminBlock          `hcl:"admin,block"`
	State        stateBlock          `hcl:"state,block"`
	Resolver     *resolverBlock      `hcl:"resolver,block"`
	Listeners    []*listenerBlock    `hcl:"listener,block"`
	Backends     []*backendBlock     `hcl:"backend,block"`
	Certificates []*certificateBlock `hcl:"certificate,block"`
	ACME         []*acmeBlock        `hcl:"acme,block"`
	TLS          []*tlsBlock         `hcl:"tls,block"`
	Policies     []*policyBlock      `hcl:"policy,block"`
}

// A loader turns the files of one configuration into a Config.
type loader struct {
	getenv   func(string) (string, bool)
	vars     map[string]string
	previous *Config
	hostname func() (string, error)

	protocols []*upgraders.Protocol

	dir     string               // relative paths begin here
	names   []string             // of the files, in order
	files   map[string]*hcl.File // by name
	watched []string
	diags   hcl.Diagnostics

	root        root
	scope       scope
	evalContext *hcl.EvalContext

	// What was made of blocks.
	sources  map[*certificateBlock][]certs.Source
	issuers  map[*acmeBlock]*acme.Authority // of those in use
	tickets  *tickets.Ring
	tls      map[*tlsBlock]*gateway.TLS
	policies map[*policyBlock]*gateway.Policy
	backends map[*backendBlock]*gateway.Backend
	used     map[string]bool // blocks that something refers to: "kind.name"
}

// A source is a file that was read.
type source struct {
	name string
	src  []byte
}

// read returns the files that a path stands for.
func (l *loader) read(path string) (sources []source) {
	paths := []string{path}
	l.dir = filepath.Dir(path)
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		l.dir = path
		l.watch(path) // a new file in it counts
		paths, err = configFiles(path)
	}
	if err != nil {
		l.unreadable(err)
		return nil
	}
	for _, p := range paths {
		l.watch(p)
		src, err := readFile(p)
		if err != nil {
			l.unreadable(err)
			continue
		}
		sources = append(sources, source{p, src})
	}
	return sources
}

// configFiles lists the files of a directory. Hidden ones are an editor's, or
// the generations of a Kubernetes volume.
func configFiles(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if (strings.HasSuffix(name, ".hcl") || strings.HasSuffix(name, ".hcl.json")) && !strings.HasPrefix(name, ".") {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no *.hcl or *.hcl.json file in %s: put the configuration there", dir)
	}
	return paths, nil
}

func (l *loader) unreadable(err error) {
	l.add(hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "The configuration cannot be read", Detail: sentence(advise(err))}})
}

const maxFile = 1 << 20

// readFile reads a file of a bounded size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(src) > maxFile {
		err = fmt.Errorf("%s is larger than 1 MiB: split it", path)
	}
	return src, err
}

// advise adds to an error of the file system what to do about it.
func advise(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: put it there, or correct the path", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let user id %d read it, and enter the directories above it", err, os.Geteuid())
	}
	return err
}

// path returns a path of the configuration as the process needs it.
func (l *loader) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(l.dir, p)
}

// load goes through the whole of a configuration: parse, labels, bodies,
// blocks.
func (l *loader) load(sources []source) (*Config, *Diagnostics) {
	body := l.parse(sources)
	if !l.diags.HasErrors() {
		l.decodeRoot(body)
		cfg := l.config()
		if !l.diags.HasErrors() {
			return cfg, l.diagnostics()
		}
	}
	return nil, l.diagnostics()
}

func (l *loader) parse(sources []source) hcl.Body {
	parser := hclparse.NewParser()
	var files []*hcl.File
	for _, s := range sources {
		parse := parser.ParseHCL
		if isJSON(s.name) {
			parse = parser.ParseJSON
		}
		file, diags := parse(s.src, s.name)
		const most = 10 // after that they follow from one another
		l.add(diags[:min(most, len(diags))])
		l.names = append(l.names, s.name)
		if file != nil {
			files = append(files, file)
		}
	}
	l.files = parser.Files()
	return hcl.MergeFiles(files)
}

func isJSON(name string) bool { return strings.HasSuffix(name, ".json") }

// decodeRoot makes the two passes: all labels, then all bodies. Between them
// stands the scope in which expressions are evaluated.
func (l *loader) decodeRoot(body hcl.Body) {
	v := reflect.ValueOf(&l.root).Elem()
	fields := fieldsOf(v.Type())
	l.defaults(v)
	todo := l.place("", l.content("", body, fields).Blocks, fields, v)
	l.defaultPolicy()

	todo = l.decodeOnly(todo, func(into any) bool { _, ok := into.(*variableBlock); return ok })
	l.variables()
	l.references()
	todo = l.decodeOnly(todo, func(into any) bool { _, ok := into.(*localsBlock); return ok })
	l.locals()
	todo = l.decodeOnly(todo, func(into any) bool { return into == any(l.root.Policies[0]) })
	for _, p := range l.root.Policies[1:] {
		p.inherit(l.root.Policies[0])
	}
	l.decodeOnly(todo, func(any) bool { return true })
}

// decodeOnly decodes the blocks that are chosen and returns the others.
func (l *loader) decodeOnly(todo []pending, chosen func(into any) bool) (rest []pending) {
	for _, p := range todo {
		if chosen(p.into.Addr().Interface()) {
			l.decode(p.path, p.body, p.into)
		} else {
			rest = append(rest, p)
		}
	}
	return rest
}

// config turns the blocks into what they stand for, those first that others
// refer to.
func (l *loader) config() *Config {
	state := l.path(l.root.State.Path.Value)
	cfg := &Config{
		Log:     l.root.Log.log(),
		Admin:   l.admin(&l.root.Admin, state),
		State:   state,
		Gateway: &gateway.Config{},
	}
	if b := l.root.Resolver; b != nil {
		cfg.Gateway.Resolver = string(b.Address.Value)
		if strings.HasPrefix(cfg.Gateway.Resolver, "unix:") {
			l.errorf(b.Address.At, "Unsuitable value for address", "A DNS server is asked by UDP and TCP: write address = \"127.0.0.1:53\".")
		}
	}
	for _, b := range l.root.ACME {
		l.checkACME(b)
		l.checkSecret(b.Store)
	}
	for _, b := range l.root.Certificates {
		l.sources[b] = l.certificate(b)
		cfg.Sources = append(cfg.Sources, l.sources[b]...)
	}
	for _, b := range l.root.TLS {
		l.tls[b] = l.tlsSettings(b)
	}
	cfg.Tickets = l.tickets
	for _, b := range l.root.Policies {
		l.policies[b] = l.policy(b)
	}
	for _, b := range l.root.Backends {
		l.backends[b] = l.backend(b)
		cfg.Gateway.Backends = append(cfg.Gateway.Backends, l.backends[b])
	}
	listeners := make(map[*listenerBlock]*gateway.Listener)
	for _, b := range l.root.Listeners {
		if g := l.listener(b); g != nil {
			listeners[b] = g
			cfg.Gateway.Listeners = append(cfg.Gateway.Listeners, g)
		}
	}
	for _, b := range l.root.ACME {
		if a := l.issuers[b]; a != nil {
			cfg.issuers = append(cfg.issuers, a)
			l.checkAnswers(b)
		}
	}
	l.warnTwoAuthorities()
	answer(cfg.Gateway.Listeners, cfg.issuers)
	l.checkAddresses()
	l.warnOpossum(listeners)
	l.warnUnused()
	if len(l.root.Listeners) == 0 {
		l.errorf(hcl.Range{Filename: l.names[0], Start: hcl.InitialPos, End: hcl.InitialPos}, "No listener", "There is nothing to do: write a block listener \"smtp\" \"mx\" { … }.")
	}
	slices.Sort(l.watched)
	cfg.Files = slices.Compact(l.watched)
	return cfg
}

// watch adds a file whose change means a reload.
func (l *loader) watch(path string) { l.watched = append(l.watched, path) }
