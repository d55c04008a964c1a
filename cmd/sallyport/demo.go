package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/config"
)

func demoCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: legacy servers, the gateway and real clients in one process",
		Long: `Demo needs nothing: no configuration, no root, no network. It makes a
certificate authority for a day, starts a server of each protocol that knows no
TLS, writes a configuration file, and runs the gateway from it in front of them,
as 'sallyport run' would. Then ordinary client libraries visit it, by STARTTLS
and by implicit TLS, and a table shows what each of them got and what the server
behind was told. A second table shows attacks that were refused.

After that it stays up for you to play with, and prints command lines for
openssl, swaks and curl. Ctrl-C ends it and removes its files. Listeners are on
127.0.0.1, where these are free on ports
` + demoPorts() + `.`,
		Example: `  sallyport demo
  sallyport demo --once && echo it works here`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), once, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the tables; exit 1 if a row failed")
	return cmd
}

func demo(ctx context.Context, once bool, stdout, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "sallyport-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca, err := newDemoCA(dir)
	if err != nil {
		return err
	}
	if err := ca.issue(demoName, net.IPv4(127, 0, 0, 1), net.IPv6loopback); err != nil {
		return err
	}
	if err := ca.issue(demoTenant); err != nil {
		return err
	}
	backends, err := startBackends()
	if err != nil {
		return err
	}
	defer backends.close()

	d := &demoRun{ca: ca, backends: backends, config: filepath.Join(dir, "sallyport.hcl")}
	if err := d.writeConfig(); err != nil {
		return err
	}
	signals := stopSignals()
	defer signals.stop()
	d.server = newServer(runOptions{path: d.config}, stderr)
	if err := d.server.start(); err != nil {
		return err
	}

	failed := d.visits(ctx, stdout)
	failed = append(failed, d.attacks(ctx, stdout)...)
	if len(failed) > 0 {
		complain(stderr, strings.Join(failed, "\n"))
	}
	if !once {
		d.invite(stdout)
		d.server.logs.level.Set(slog.LevelInfo)
		if err := d.server.wait(signals); err != nil {
			return err
		}
	} else if err := d.server.shutdown(signals); err != nil {
		return err
	}
	if len(failed) > 0 {
		return errFailed
	}
	return nil
}

// A demoRun is one demo.
type demoRun struct {
	ca       *demoCA
	backends *demoBackends
	config   string // the path of the configuration file
	server   *server
}

// demoConfig is what an operator would write.
var demoConfig = template.Must(template.New("sallyport.hcl").Parse(`# Written by 'sallyport demo'.

log { level = "error" }
admin {
  address = "{{.Admin}}"
{{with .Control}}  control = "{{.}}"
{{end}}}

policy "default" { drain_timeout = "2s" }

certificate "localhost" {
  cert_file = "{{.Dir}}/localhost.crt"
  key_file  = "{{.Dir}}/localhost.key"
}
certificate "tenant" {
  cert_file = "{{.Dir}}/tenant.example.net.crt"
  key_file  = "{{.Dir}}/tenant.example.net.key"
}

{{range .Backends}}backend "{{.Name}}" {
  servers = ["{{.Address}}"]
  send    = "proxy-v2"
}
{{end}}{{range .Listeners}}
{{with .Comment}}# {{.}}
{{end}}listener "{{.Protocol}}" "{{.Name}}" {
  address   = ["{{.Address}}"]
  mode      = "{{.Mode}}"
  hostname  = "localhost"
{{with .More}}  {{.}}
{{end}}  {{.Route}}
}
{{end}}`))

func (d *demoRun) writeConfig() error {
	type backend struct{ Name, Address string }
	type listener struct{ Comment, Protocol, Name, Mode, Address, More, Route string }
	var backends []backend
	var listeners []listener
	for _, s := range d.backends.servers {
		backends = append(backends, backend{s.backend, s.ln.Addr().String()})
		for _, l := range s.listeners {
			route := cmp.Or(l.route, "backend = backend."+s.backend)
			listeners = append(listeners, listener{l.comment, l.protocol, l.name, l.mode, preferPort(l.port), l.more, route})
		}
	}
	var text strings.Builder
	err := demoConfig.Execute(&text, map[string]any{
		"Dir":       filepath.ToSlash(d.ca.dir),
		"Admin":     preferPort("9142"),
		"Control":   controlPath(d.ca.dir),
		"Backends":  backends,
		"Listeners": listeners,
	})
	if err != nil {
		return err
	}
	formatted, diags := config.Format([]byte(text.String()), d.config)
	if diags.HasErrors() {
		return diags.Err()
	}
	return os.WriteFile(d.config, formatted, 0o600)
}

// controlPath is where the demo's control socket is. A directory whose name is
// too long for a socket (unix(7): 107 bytes) gets none, which is no error.
func controlPath(dir string) string {
	if path := filepath.Join(dir, "control.sock"); len(path) <= 107 {
		return filepath.ToSlash(path)
	}
	return ""
}

// preferPort returns an address with the port where it is free now, else one
// that lets the kernel choose.
func preferPort(port string) string {
	address := net.JoinHostPort("127.0.0.1", port)
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return "127.0.0.1:0"
	}
	ln.Close()
	return address
}

func (d *demoRun) address(listener string) string {
	if addrs := d.server.gw.Addrs(listener); len(addrs) > 0 {
		return addrs[0].String()
	}
	return ""
}

// visits makes and prints the visits and returns what went wrong.
func (d *demoRun) visits(ctx context.Context, w io.Writer) (failed []string) {
	fmt.Fprint(w, "Sessions of ordinary clients, through the gateway, to servers without TLS:\n\n")
	t := table{head: []string{"PROTOCOL", "PORT", "HOW", "TLS", "GROUP", "CERTIFICATE", ""}}
	for _, v := range d.backends.visits() {
		r := v.make(ctx, d.address(v.listener), d.ca.pool, &d.backends.seen)
		version, group, certificate := "-", "-", "-"
		if r.tls != nil {
			version, group = tls.VersionName(r.tls.Version), r.tls.CurveID.String()
			leaf := r.tls.PeerCertificates[0]
			certificate = leaf.Subject.CommonName + " " + keyKind(leaf)
		}
		if r.err != nil {
			failed = append(failed, fmt.Sprintf("%s on port %s (%s): %v", v.protocol, r.port, v.how, r.err))
		}
		t.row(r.seen.String(), v.protocol, r.port, v.how, version, group, certificate, verdict(r.err))
	}
	t.write(w)
	return failed
}

// attacks does the same with the attacks.
func (d *demoRun) attacks(ctx context.Context, w io.Writer) (failed []string) {
	var results []attackResult
	for _, a := range demoAttacks() {
		results = append(results, a.make(ctx, d.address(a.listener), d.ca.pool))
	}
	// What must not arrive has had its chance.
	time.Sleep(50 * time.Millisecond)

	fmt.Fprint(w, "\nAttacks, refused before a server heard of them:\n\n")
	t := table{head: []string{"PORT", "ATTACK", ""}}
	for _, r := range results {
		if seen, ok := d.backends.seen.of(r.ends); ok && r.err == nil {
			r.err = fmt.Errorf("%s", seen)
		}
		if r.err != nil {
			failed = append(failed, fmt.Sprintf("attack on port %s (%s): %v", r.port, r.title, r.err))
		}
		t.row(orDash(r.refusal), r.port, r.title, verdict(r.err))
	}
	t.write(w)
	return failed
}

func verdict(err error) string {
	if err != nil {
		return "FAILED"
	}
	return "ok"
}

// A table has aligned columns and under each row a note, so that it fits an
// ordinary terminal.
type table struct {
	head  []string
	rows  [][]string
	notes []string
}

func (t *table) row(note string, cells ...string) {
	t.rows = append(t.rows, cells)
	t.notes = append(t.notes, note)
}

func (t *table) write(w io.Writer) {
	var aligned strings.Builder
	tw := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.head}, t.rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
	n := -1 // the head has no note
	for line := range strings.Lines(aligned.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
		if n >= 0 {
			fmt.Fprintf(w, "      %s\n", t.notes[n])
		}
		n++
	}
}

// invite prints what to try next.
func (d *demoRun) invite(w io.Writer) {
	port := func(listener string) string { return portOf(d.address(listener)) }
	login := demoUser + ":" + demoPassword
	program, err := os.Executable() // which need not be on the PATH
	if err != nil {
		program = "sallyport"
	}
	fmt.Fprintf(w, `
The gateway stays up; its session log follows. Paste into another terminal:

  # what a client sees
  openssl s_client -starttls smtp -connect localhost:%[1]s -CAfile %[6]s -verify_return_error -brief </dev/null
  openssl s_client -starttls imap -connect localhost:%[3]s -CAfile %[6]s -verify_return_error -brief </dev/null
  openssl s_client -connect localhost:%[5]s -CAfile %[6]s -quiet

  # send a message and read it
  swaks --server localhost:%[1]s -tls --tls-verify --tls-ca-path %[6]s --auth-user %[8]s --auth-password %[9]s --from alice@example.org --to bob@example.org
  curl -sS --ssl-reqd --cacert %[6]s --user %[7]s 'imap://localhost:%[3]s/INBOX;MAILINDEX=1'
  curl -sS --cacert %[6]s --user %[7]s 'imaps://localhost:%[4]s/' -X 'STATUS INBOX (MESSAGES)'
  curl -sS --ssl-reqd --cacert %[6]s --user %[7]s 'pop3://localhost:%[12]s/1'

  # what an operator sees
  curl -s http://%[10]s/metrics | grep ^sallyport_
  %[13]s report clients -c %[11]s
  less %[11]s

Ctrl-C ends the demo and removes its files.
`, port("submission"), port("submissions"), port("imap"), port("imaps"), port("echo"), d.ca.file, login,
		demoUser, demoPassword, d.server.admin.addr(), d.config, port("pop3"), program)
}
