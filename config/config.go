// Package config reads HCL (and its JSON syntax) and makes a gateway.Config of
// it. It is the only package that knows hcl.
//
// Each block of the schema has a file that bears its name: the struct on top,
// whose tags are the schema (decode.go says what they mean, docs/config.md is
// generated from them), and below it the function that checks the block and
// turns it into what the gateway wants. loader.go leads through them in two
// passes: first every label, so that blocks may refer to each other in any
// order, then every body.
//
// Whatever is wrong is reported at once, each with its place in the source and
// what to write instead.
package config

import (
	"log/slog"
	"os"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/certs/tickets"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders/all"
)

// Options is what a configuration may take from outside its files.
type Options struct {
	// Vars holds values of variables, as -var gives them.
	Vars map[string]string
	// Getenv looks up SALLYPORT_VAR_x and what env("X") names. Nil is
	// os.LookupEnv.
	Getenv func(string) (string, bool)
	// Previous is the configuration in use, if one is. What the gateway made
	// for it and would make anew is taken over: clients may have pinned a
	// self-signed certificate.
	Previous *Config
}

// A Config is a whole configuration, checked.
type Config struct {
	Log     Log
	Admin   Admin
	State   string // directory for what must outlive a restart
	Gateway *gateway.Config

	// Sources holds every certificate, in the order of the files, with what
	// files and stores hold of it. Someone must keep them current, with a
	// certs.Watcher.
	Sources []certs.Source

	issuers issuers // who issues some of Sources

	// Tickets holds the keys of shared tickets, nil where no tls block wants
	// them. Someone must Keep it. While its options stay it is that of
	// Options.Previous.
	Tickets *tickets.Ring

	// Files are the paths whose change means a reload: configuration files,
	// the directory they are in when it was given, what file() read, and the
	// CA files of clients and backends. Certificates are not among them:
	// their sources look after themselves.
	Files []string
}

// Log says what is logged to standard error.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Admin says where operators find the gateway.
type Admin struct {
	Address string // of metrics and health, read only; "": none
	Control string // path of the control socket
}

// Load reads a file, or a directory whose *.hcl and *.hcl.json files are
// merged in the order of their names. The Config is nil when the Diagnostics,
// which never are, hold an error.
func Load(path string, opts Options) (*Config, *Diagnostics) {
	l := newLoader(opts)
	sources := l.read(path)
	if l.diags.HasErrors() {
		return nil, l.diagnostics()
	}
	return l.load(sources)
}

// ControlSocket returns the path of the control socket of the gateway that runs
// a configuration. It looks at nothing else: certificates need not be there,
// and whatever is wrong elsewhere may be. The path is empty when the
// Diagnostics, which never are nil, say why it cannot be known.
func ControlSocket(path string, opts Options) (string, *Diagnostics) {
	l := newLoader(opts)
	sources := l.read(path)
	if l.diags.HasErrors() {
		return "", l.diagnostics()
	}
	body := l.parse(sources)
	if l.diags.HasErrors() {
		return "", l.diagnostics()
	}
	l.decodeRoot(body)
	if r := &l.root; r.State.Path.bad || r.Admin.Control.bad {
		return "", l.diagnostics()
	}
	l.diags = nil
	control := l.admin(&l.root.Admin, l.path(l.root.State.Path.Value)).Control
	if l.diags.HasErrors() {
		control = ""
	}
	return control, l.diagnostics()
}

func newLoader(opts Options) *loader {
	l := &loader{
		getenv:    opts.Getenv,
		vars:      opts.Vars,
		previous:  opts.Previous,
		hostname:  os.Hostname,
		protocols: all.Protocols(),
		scope:     make(scope),
		sources:   make(map[*certificateBlock][]certs.Source),
		issuers:   make(map[*acmeBlock]*acme.Authority),
		tls:       make(map[*tlsBlock]*gateway.TLS),
		policies:  make(map[*policyBlock]*gateway.Policy),
		backends:  make(map[*backendBlock]*gateway.Backend),
		used:      make(map[string]bool),
	}
	if l.getenv == nil {
		l.getenv = os.LookupEnv
	}
	l.evalContext = &hcl.EvalContext{Variables: make(map[string]cty.Value), Functions: l.functions()}
	return l
}
