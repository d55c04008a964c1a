package migrate

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/upgraders"
)

// A draft is what a configuration amounts to, before it has names and is HCL.
type draft struct {
	program   string
	source    string // name of the file
	protocols []*upgraders.Protocol

	notes     []Note // about the whole file
	logLevel  string
	variables []variable
	listeners []*listener
}

// A variable stands for what only the operator knows.
type variable struct {
	name, value, description string // value is an expression
}

// notes collects what is said of one block.
type notes struct {
	where string
	list  []Note
	outer *notes // takes what is said of settings that are inherited
}

// A place is where a setting stands.
type place struct {
	file      string
	line      int
	inherited bool // by all services: it is spoken of once
}

func (n *notes) lost(at place, what, why string, args ...any) { n.add(at, what, why, args, true) }

func (n *notes) changed(at place, what, why string, args ...any) { n.add(at, what, why, args, false) }

func (n *notes) add(at place, what, why string, args []any, lost bool) {
	if at.inherited && n.outer != nil {
		n = n.outer
	}
	note := Note{File: at.file, Line: at.line, Where: n.where, What: printable(what), Lost: lost}
	note.Why = fmt.Sprintf(why, args...)
	if !slices.Contains(n.list, note) {
		n.list = append(n.list, note)
	}
}

// A listener is one listener block to be.
type listener struct {
	notes
	at            place
	name          string // wish
	protocol      string
	implicit      bool
	addresses     []string
	cleartext     bool
	cleartextAuth bool
	hostname      string
	certificates  []certificate
	tls           *tlsSettings
	policy        policy
	greetWait     string
	routes        []*route // without sni last

	// off says why the whole of it must be a comment.
	off []string
}

// forbid makes the listener a comment, because what guards it is lost.
func (l *listener) forbid(at place, what, why string, args ...any) {
	at.inherited = false
	l.lost(at, what, why, args...)
	if !slices.Contains(l.off, what) {
		l.off = append(l.off, what)
	}
}

type certificate struct{ cert, key string }

type tlsSettings struct {
	minVersion string
	clientAuth string // mode
	caFile     string
}

type policy struct {
	handshake, idle, dialogue string // durations
	from                      []string
	fromVariable              string
}

type route struct {
	sni     []string
	tls     *tlsSettings
	backend *backend
}

type backend struct {
	notes          []Note
	name           string // wish
	servers        []server
	variable       string // that stands for the only server
	balance        string
	send           string
	xclient        bool
	connectTimeout string
	tls            *backendTLS
}

type server struct {
	address        string
	weight         int
	backup         bool
	maxConnections int
}

func (s server) plain() bool { return s.weight <= 1 && !s.backup && s.maxConnections == 0 }

type backendTLS struct{ verify, caFile, serverName string }

// protocol returns the protocol of a name, or nil where it is not spoken.
func (d *draft) protocol(name string) *upgraders.Protocol {
	for _, p := range d.protocols {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// implicitProtocol chooses the protocol for TLS from the first byte: by the
// well-known port that is listened on, else by that of the servers. Where
// they disagree, and for all that is not spoken, it is tcp: opaque bytes,
// which is what the other program made of them too.
func (d *draft) implicitProtocol(addresses []string, servers []server) string {
	var front, back []string
	famous := false
	for _, a := range addresses {
		front = append(front, d.byPort(a, func(p *upgraders.Protocol) []uint16 { return p.Implicit }))
		famous = famous || wellKnown(port(a))
	}
	for _, s := range servers {
		back = append(back, d.byPort(s.address, func(p *upgraders.Protocol) []uint16 { return p.Ports }))
	}
	front, back = distinct(front), distinct(back)
	known := slices.DeleteFunc(slices.Clone(back), func(name string) bool { return name == "" })
	switch {
	case len(front) == 1 && front[0] != "" && (len(known) == 0 || len(known) == 1 && known[0] == front[0]):
		return front[0]
	case !famous && len(back) == 1 && back[0] != "":
		return back[0]
	}
	return "tcp"
}

func (d *draft) byPort(address string, ports func(*upgraders.Protocol) []uint16) string {
	for _, p := range d.protocols {
		if slices.Contains(ports(p), port(address)) {
			return p.Name
		}
	}
	return ""
}

// and lists things: "a, b and c".
func and(things []string) string {
	if n := len(things) - 1; n > 0 {
		return strings.Join(things[:n], ", ") + " and " + things[n]
	}
	return strings.Join(things, "")
}

func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// wellKnown reports whether a port belongs to some service.
func wellKnown(p uint16) bool {
	for _, known := range services {
		if known == p {
			return true
		}
	}
	return false
}

// addRoute adds a route for some names, less those that an earlier route has.
func (l *listener) addRoute(n *notes, at place, what string, r *route) {
	var names []string
	for _, name := range r.sni {
		taken := slices.ContainsFunc(l.routes, func(before *route) bool {
			return slices.ContainsFunc(before.sni, func(p string) bool { return covers(p, name) })
		})
		if taken {
			n.lost(at, what, "an earlier route has %s already", name)
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	r.sni = names
	last := len(l.routes)
	if last > 0 && len(l.routes[last-1].sni) == 0 {
		last--
	}
	l.routes = slices.Insert(l.routes, last, r)
}

// add takes a listener in, unless it cannot listen.
func (d *draft) add(l *listener) {
	for _, address := range slices.Clone(l.addresses) {
		free := !slices.ContainsFunc(l.addresses[:slices.Index(l.addresses, address)], func(a string) bool { return collide(a, address) })
		for _, other := range d.listeners {
			if len(other.off) == 0 && slices.ContainsFunc(other.addresses, func(a string) bool { return collide(a, address) }) {
				free = false
			}
		}
		if !free {
			l.lost(l.at, "the address "+address, "another listener has it")
			l.addresses = slices.DeleteFunc(l.addresses, func(a string) bool { return a == address })
		}
	}
	switch {
	case len(l.addresses) == 0:
		l.lost(l.at, "this listener", "there is no address left to listen on")
	case len(l.certificates) == 0:
		l.lost(l.at, "this listener", "without a certificate in a PEM file there is no TLS")
	case len(l.routes) == 0:
		l.lost(l.at, "this listener", "there is no server to send its sessions to")
	default:
		d.listeners = append(d.listeners, l)
		return
	}
	d.notes = append(d.notes, l.list...)
	for _, r := range l.routes {
		d.notes = append(d.notes, r.backend.notes...)
	}
}

// drop names a service that becomes no listener at all.
func (d *draft) drop(n notes) { d.notes = append(d.notes, n.list...) }

// A writer gives names to blocks and puts them in order: what listeners share
// stands once, before the first that needs it.
type writer struct {
	d      *draft
	names  map[string]bool   // kind and name
	placed map[string]string // kind and body to name
	live   map[string]bool   // kind and body of what a listener that is no comment needs
	blocks []*block
}

func (d *draft) result() *Result {
	w := &writer{d: d, names: map[string]bool{}, placed: map[string]string{}, live: map[string]bool{}}
	res := &Result{}
	for _, l := range d.listeners {
		if len(l.off) == 0 {
			res.Listeners++
			for _, b := range w.parts(l) {
				w.live[key(b)] = true
			}
		}
	}
	for _, l := range d.listeners {
		w.listener(l)
	}

	var out strings.Builder
	writeComment(&out, fmt.Sprintf("Made by `sallyport import %s %s`. What could not be carried over is named beside the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE", d.program, path.Base(strings.ReplaceAll(d.source, `\`, "/"))))
	seen := make(map[Note]bool)
	res.add(&out, seen, d.notes, "\n")
	var head []*block
	for _, v := range d.variables {
		b := &block{kind: "variable", labels: []string{v.name}}
		b.text("description", v.description)
		b.attr("default", v.value)
		head = append(head, b)
	}
	if d.logLevel != "" {
		b := &block{kind: "log"}
		b.text("level", d.logLevel)
		head = append(head, b)
	}
	for _, b := range head {
		out.WriteString("\n" + b.String())
	}
	for _, b := range w.blocks {
		out.WriteString("\n" + b.String())
	}
	res.HCL = []byte(out.String())
	for _, l := range d.listeners {
		for _, r := range l.routes {
			res.collect(seen, r.backend.notes)
		}
		res.collect(seen, l.list)
	}
	return res
}

// add writes notes as comments and counts them, each once.
func (res *Result) add(out *strings.Builder, seen map[Note]bool, notes []Note, before string) {
	for _, n := range notes {
		if !seen[n] {
			out.WriteString(before)
			before = ""
			writeComment(out, n.String())
		}
		res.collect(seen, []Note{n})
	}
}

func (res *Result) collect(seen map[Note]bool, notes []Note) {
	for _, n := range notes {
		if !seen[n] {
			seen[n] = true
			res.Notes = append(res.Notes, n)
		}
	}
}

func key(b *block) string { return b.kind + "\n" + b.body() }

// parts returns the blocks that a listener refers to, without names.
func (w *writer) parts(l *listener) (parts []*block) {
	for _, c := range l.certificates {
		parts = append(parts, c.block())
	}
	for _, t := range l.tlsBlocks() {
		parts = append(parts, t)
	}
	if p := l.policy.block(); p != nil {
		parts = append(parts, p)
	}
	for _, r := range l.routes {
		parts = append(parts, r.backend.block())
	}
	return parts
}

func (l *listener) tlsBlocks() (blocks []*block) {
	if l.tls != nil {
		blocks = append(blocks, l.tls.block())
	}
	for _, r := range l.routes {
		if r.tls != nil {
			blocks = append(blocks, r.tls.block())
		}
	}
	return blocks
}

// place puts a shared block in once and returns a reference to it.
func (w *writer) place(b *block, wish string, notes []Note) string {
	name, ok := w.placed[key(b)]
	if !ok {
		k := key(b)
		name = w.name(b.kind, wish)
		w.placed[k] = name
		b.labels = []string{name}
		b.off = !w.live[k]
		b.comments = comments(notes, "")
		w.blocks = append(w.blocks, b)
	}
	return b.kind + "." + name
}

// name makes a name that no other block of the kind has.
func (w *writer) name(kind, wish string) string {
	base := identifier(wish)
	name := base
	for n := 2; w.names[kind+" "+name]; n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	w.names[kind+" "+name] = true
	return name
}

// comments are notes beside the block of a service, which need not name it.
func comments(notes []Note, where string) (lines []string) {
	for _, n := range notes {
		if n.Where == where {
			n.Where = ""
		}
		lines = append(lines, n.String())
	}
	return lines
}

func (w *writer) listener(l *listener) {
	name := w.name("listener", l.name)
	b := &block{kind: "listener", labels: []string{l.protocol, name}, off: len(l.off) > 0}
	b.comments = comments(l.list, l.where)
	if b.off {
		b.comments = append(b.comments, "The listener is a comment, because "+and(l.off)+" would no longer guard it: settle that first, then take the # away.")
	}
	b.attr("address", list(l.addresses))
	if p := w.d.protocol(l.protocol); p != nil && p.Keyword != "" {
		usual := p.Ports
		mode := "starttls"
		if l.implicit {
			usual, mode = p.Implicit, "implicit"
		}
		if slices.ContainsFunc(l.addresses, func(a string) bool { return !slices.Contains(usual, port(a)) }) {
			b.text("mode", mode)
		}
	}
	if l.cleartext {
		b.text("cleartext", "allow")
	}
	if l.cleartextAuth {
		b.attr("cleartext_auth", "true")
	}
	b.text("hostname", l.hostname)
	var certs []string
	for _, c := range l.certificates {
		certs = append(certs, w.place(c.block(), certificateName(c.cert), nil))
	}
	b.attr("certs", "["+strings.Join(slices.Compact(certs), ", ")+"]")
	if l.tls != nil {
		b.attr("tls", w.place(l.tls.block(), name, nil))
	}
	if p := l.policy.block(); p != nil {
		b.attr("policy", w.place(p, name, nil))
	}
	if l.greetWait != "" {
		options := &block{kind: "options"}
		options.text("greet_wait", l.greetWait)
		b.nest(options)
	}
	for i, r := range l.routes {
		ref := w.place(r.backend.block(), r.backend.name, r.backend.notes)
		if len(l.routes) == 1 && len(r.sni) == 0 && r.tls == nil {
			// Before the blocks.
			at := slices.IndexFunc(b.items, func(it item) bool { return it.block != nil })
			if at < 0 {
				at = len(b.items)
			}
			b.items = slices.Insert(b.items, at, item{name: "backend", value: ref})
			break
		}
		inner := &block{kind: "route"}
		if len(r.sni) > 0 {
			inner.attr("sni", list(r.sni))
		}
		if r.tls != nil {
			inner.attr("tls", w.place(r.tls.block(), fmt.Sprintf("%s_%d", name, i+1), nil))
		}
		inner.attr("backend", ref)
		b.nest(inner)
	}
	w.blocks = append(w.blocks, b)
}

func (c certificate) block() *block {
	b := &block{kind: "certificate"}
	b.text("cert_file", c.cert)
	b.text("key_file", c.key)
	return b
}

func (t *tlsSettings) block() *block {
	b := &block{kind: "tls"}
	b.text("min_version", t.minVersion)
	if t.clientAuth != "" {
		auth := &block{kind: "client_auth"}
		auth.text("mode", t.clientAuth)
		auth.text("ca_file", t.caFile)
		b.nest(auth)
	}
	return b
}

// block is nil where the defaults will do.
func (p policy) block() *block {
	b := &block{kind: "policy"}
	b.text("handshake_timeout", p.handshake)
	b.text("idle_timeout", p.idle)
	dialogue := &block{kind: "dialogue"}
	dialogue.text("timeout", p.dialogue)
	b.nest(dialogue)
	proxy := &block{kind: "proxy_protocol"}
	switch {
	case p.fromVariable != "":
		proxy.attr("from", "var."+p.fromVariable)
	case len(p.from) > 0:
		proxy.attr("from", list(p.from))
	}
	b.nest(proxy)
	if len(b.items) == 0 {
		return nil
	}
	return b
}

func (be *backend) block() *block {
	b := &block{kind: "backend"}
	var plain []string
	for _, s := range be.servers {
		if s.plain() {
			plain = append(plain, s.address)
		}
	}
	switch {
	case be.variable != "":
		b.attr("servers", "[var."+be.variable+"]")
	case len(plain) > 0:
		b.attr("servers", list(plain))
	}
	b.text("balance", be.balance)
	b.text("send", be.send)
	b.text("connect_timeout", be.connectTimeout)
	for _, s := range be.servers {
		if s.plain() {
			continue
		}
		inner := &block{kind: "server", labels: []string{s.address}}
		if s.weight > 1 {
			inner.attr("weight", strconv.Itoa(s.weight))
		}
		if s.backup {
			inner.attr("backup", "true")
		}
		if s.maxConnections > 0 {
			inner.attr("max_connections", strconv.Itoa(s.maxConnections))
		}
		b.nest(inner)
	}
	if be.xclient {
		forward := &block{kind: "forward"}
		forward.attr("xclient", "true")
		b.nest(forward)
	}
	if be.tls != nil {
		inner := &block{kind: "tls"}
		inner.text("mode", "implicit")
		if be.tls.verify == "none" {
			inner.text("verify", "none")
		}
		inner.text("ca_file", be.tls.caFile)
		inner.text("server_name", be.tls.serverName)
		b.nest(inner)
	}
	return b
}

// addServer adds a server, each address once.
func (be *backend) addServer(s server) bool {
	if slices.ContainsFunc(be.servers, func(t server) bool { return t.address == s.address }) {
		return false
	}
	be.servers = append(be.servers, s)
	return true
}

// seconds reads a whole number of seconds, of at least one and at most ten
// years: more is a mistake or means for ever.
func seconds(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	const most = 10 * 365 * 24 * 3600
	return time.Duration(n) * time.Second, err == nil && n > 0 && n <= most
}
