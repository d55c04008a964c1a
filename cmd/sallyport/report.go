package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/gateway"
)

func reportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Ask a running gateway what it has seen",
		Long: `Report asks a running gateway. It finds the gateway's control socket by the
same -c PATH that the gateway runs with (admin.control there), and only root and
the gateway's own user may ask.`,
		Example: `  sallyport report clients -c /etc/sallyport/sallyport.hcl`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("say what to report: clients")
		},
	}
	cmd.AddCommand(reportClientsCommand())
	return cmd
}

func reportClientsCommand() *cobra.Command {
	var (
		path     string
		vars     map[string]string
		asJSON   bool
		listener string
	)
	cmd := &cobra.Command{
		Use:   "clients -c PATH",
		Short: "List the clients that a stricter policy would break",
		Long: `Clients lists, by network (IPv4 /24, IPv6 /48), who has reached a server since
the gateway started

  without TLS                       whom cleartext = "refuse" would break
  with TLS 1.0, 1.1 or 1.2          whom a higher min_version would break
  by STARTTLS, where TLS can come   who could move to the port of implicit TLS
  first                             (RFC 8314, 3)

and the last lines sum up whom each policy would break. Who is not listed would
notice none of them. EXAMPLE is the last client of the network. The list is kept
in memory, for 10000 networks a listener; what comes after these is counted
together, as "others".`,
		Example: `  sallyport report clients -c /etc/sallyport/sallyport.hcl
  sallyport report clients -c /etc/sallyport/sallyport.hcl --listener mx

  # the ten busiest networks without TLS
  sallyport report clients -c /etc/sallyport/sallyport.hcl --json |
    jq -r '[.clients[] | select(.by == "cleartext")][:10][] | .network'`,
		Args: onlyFlags,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needConfig(path); err != nil {
				return err
			}
			var report clientsReport
			if err := askControl(cmd.Context(), path, vars, "/clients", &report); err != nil {
				return err
			}
			if listener != "" {
				if !slices.Contains(report.Listeners, listener) {
					return fmt.Errorf("the gateway has no listener %q, but: %s", listener, strings.Join(report.Listeners, ", "))
				}
				report.Clients = slices.DeleteFunc(report.Clients, func(c gateway.ClientTally) bool { return c.Listener != listener })
				report.Listeners = []string{listener}
			}
			if asJSON {
				return printJSON(cmd, report)
			}
			return report.write(cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &path)
	varFlag(cmd, &vars)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for scripts")
	cmd.Flags().StringVar(&listener, "listener", "", "`NAME` of the only listener to report on")
	return cmd
}

// write prints the report for people.
func (r *clientsReport) write(w io.Writer) error {
	since := r.Since.Local().Format(time.DateTime)
	if len(r.Clients) == 0 {
		_, err := fmt.Fprintf(w, "No client since %s that a stricter policy would break.\n", since)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LISTENER\tNETWORK\tBY\tTLS\tSESSIONS\tLAST SEEN\tEXAMPLE")
	for _, c := range r.Clients {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", c.Listener, networkName(c.Network), c.By, orDash(c.Version), c.Sessions,
			c.Last.Local().Format(time.DateTime), exampleName(c.Example))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nSince %s:\n", since)
	for _, p := range policies {
		if _, err := fmt.Fprintln(w, r.verdict(p)); err != nil {
			return err
		}
	}
	return nil
}

func networkName(p netip.Prefix) string {
	if !p.IsValid() {
		return "others"
	}
	return p.String()
}

func exampleName(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// A stricter policy, and whom it would break. The versions are those of the
// tally, as OpenSSL writes them.
type stricter struct {
	name   string
	breaks func(c gateway.ClientTally) bool
}

var policies = []stricter{
	{`cleartext = "refuse"`, func(c gateway.ClientTally) bool { return c.By == gateway.ByCleartext }},
	{`min_version = "1.2"`, func(c gateway.ClientTally) bool { return c.Version == "TLSv1" || c.Version == "TLSv1.1" }},
	{`min_version = "1.3"`, func(c gateway.ClientTally) bool { return c.Version != "" && c.Version != "TLSv1.3" }},
	{"implicit TLS only", func(c gateway.ClientTally) bool { return c.By != gateway.ByImplicit }},
}

// verdict says in a line whom a policy would break: networks, each counted
// once, and their sessions.
func (r *clientsReport) verdict(p stricter) string {
	networks := map[netip.Prefix]bool{}
	sessions := uint64(0)
	for _, c := range r.Clients {
		if p.breaks(c) {
			networks[c.Network] = true
			sessions += c.Sessions
		}
	}
	if len(networks) == 0 {
		return fmt.Sprintf("  %-20s would break nobody", p.name)
	}
	others := ""
	if networks[netip.Prefix{}] {
		delete(networks, netip.Prefix{})
		others = " and others"
	}
	return fmt.Sprintf("  %-20s would break %s%s (%s)", p.name, plural(len(networks), "network"), others, plural(int(sessions), "session"))
}
