package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/config"
)

func checkCommand() *cobra.Command {
	var (
		path   string
		vars   map[string]string
		strict bool
		live   bool
	)
	cmd := &cobra.Command{
		Use:   "check -c PATH",
		Short: "Find every mistake in a configuration, each with its source line",
		Long: `Check loads a configuration as run would, certificates and all, and starts
nothing. Everything that is wrong (errors) or doubtful (warnings) is shown at
once, each with the line it is about and what to write instead. Of certificates
that an authority issues it tells what the store holds; it makes nothing there,
and asks no authority. The last line sums up.

With --live it then asks each server of each backend what only the server
knows. It connects exactly as a session of a client from 192.0.2.1 in TLS would
be connected (PROXY header, client facts, TLS to the backend), and finds out
whether the server gives the gateway's address what no stranger should have, or
keeps from clients what they need:

  smtp   relays outward; offers XCLIENT or XFORWARD; wants TLS; hides AUTH
  imap   forbids plain logins; greets with PREAUTH
  pop3   forbids plain logins; offers XCLIENT
  sieve  forbids plain logins; offers XCLIENT
  ftp    refuses logins without TLS, or to protect data in TLS
  nntp   takes the gateway for a peer; lets anyone post; forbids logins
  xmpp   wants TLS before it lets anyone log in; does not serve the host
  all    cannot be reached; waits for a PROXY header, or takes none; hides
         capabilities from cleartext; offers channel binding, which breaks SCRAM

Each finding is a line that names the settings to change. Nothing is delivered
and no password is sent, but servers log the visit. Run it where the gateway
runs, since it is the gateway's address that is trusted.

Exit codes: 0 the configuration can be run, 1 it cannot, or a server has an
error (with --strict: or there are warnings), 2 the command line is wrong.`,
		Example: `  sallyport check -c /etc/sallyport/sallyport.hcl

  # what do the servers grant to the gateway's address, and so to everyone?
  sallyport check --live -c /etc/sallyport/sallyport.hcl

  # in a pipeline: warnings fail as well
  sallyport check --strict -c ./conf.d -var domain=example.org

  # reload only what is good (a reload would refuse it too)
  sallyport check -c /etc/sallyport/sallyport.hcl && systemctl reload sallyport`,
		Args: onlyFlags,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needConfig(path); err != nil {
				return err
			}
			cfg, diags := config.Load(path, config.Options{Vars: vars})
			out := cmd.OutOrStdout()
			if _, err := diags.WriteTo(out); err != nil {
				return err
			}
			errors, warnings := diags.Errors(), diags.Warnings()
			asked := ""
			if live && errors == 0 {
				e, w, err := checkLive(cmd, cfg.Gateway)
				if err != nil {
					return err
				}
				errors, warnings = errors+e, warnings+w
				asked = ", servers asked"
			}
			if errors > 0 || strict && warnings > 0 {
				fmt.Fprintf(out, "%s: %s\n", path, sum(errors, warnings))
				return errFailed
			}
			writeIssued(out, cfg.Sources)
			fmt.Fprintf(out, "%s: valid, %s and %s%s", path,
				plural(len(cfg.Gateway.Listeners), "listener"), plural(len(cfg.Gateway.Backends), "backend"), asked)
			if warnings > 0 {
				fmt.Fprintf(out, "; %s", sum(errors, warnings))
			}
			fmt.Fprintln(out)
			return nil
		},
	}
	configFlag(cmd, &path)
	varFlag(cmd, &vars)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings, too")
	cmd.Flags().BoolVar(&live, "live", false, "ask the servers of all backends what they grant and refuse")
	return cmd
}

// writeIssued tells of certificates that an authority issues what the store
// holds of them.
func writeIssued(w io.Writer, sources []certs.Source) {
	for _, src := range sources {
		issued, ok := src.(*acme.Source)
		if !ok {
			continue
		}
		st := issued.Status()
		state := "not issued yet"
		if st.Certificate != nil && !st.StandIn {
			state = "until " + st.Certificate.Leaf.NotAfter.UTC().Format(time.DateTime+" MST")
		}
		fmt.Fprintf(w, "certificate %s: %s, by acme %q (%s)\n", src.Name(), state, st.Authority, strings.Join(st.Names, ", "))
	}
}

// count sums up diagnostics: "2 errors, 1 warning".
func count(d *config.Diagnostics) string { return sum(d.Errors(), d.Warnings()) }

func sum(errors, warnings int) string {
	switch {
	case warnings == 0:
		return plural(errors, "error")
	case errors == 0:
		return plural(warnings, "warning")
	default:
		return plural(errors, "error") + ", " + plural(warnings, "warning")
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
