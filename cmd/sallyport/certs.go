package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/config"
)

func certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "List, show and renew certificates",
		Long: `Certs tells of the certificates of a configuration: those of files, those that
the gateway signs itself, and those that it has issued by an authority (ACME).

It asks the gateway that runs with the same -c PATH, through its control socket
(admin.control there); only root and the gateway's own user may. When none runs,
list and show look into the files and the store themselves.`,
		Example: `  sallyport certs list -c /etc/sallyport/sallyport.hcl
  sallyport certs show mail -c /etc/sallyport/sallyport.hcl
  sallyport certs renew mail -c /etc/sallyport/sallyport.hcl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("say what to do: list, show NAME or renew NAME")
		},
	}
	cmd.AddCommand(certsListCommand(), certsShowCommand(), certsRenewCommand())
	return cmd
}

// certsOptions is what the three commands have in common.
type certsOptions struct {
	path   string
	vars   map[string]string
	asJSON bool
}

func (o *certsOptions) flags(cmd *cobra.Command) {
	configFlag(cmd, &o.path)
	varFlag(cmd, &o.vars)
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON, for scripts")
}

func certsListCommand() *cobra.Command {
	var o certsOptions
	cmd := &cobra.Command{
		Use:   "list -c PATH",
		Short: "List all certificates",
		Long: `List prints a line for each certificate:

  FROM          files, self_signed, acme, or stand-in: signed by the gateway
                itself until the authority has issued one
  DAYS          how many days it is still valid
  NEXT RENEWAL  when the gateway renews it, or tries again

and below, why the last try to renew one failed.`,
		Example: `  sallyport certs list -c /etc/sallyport/sallyport.hcl

  # what could not be renewed
  sallyport certs list -c /etc/sallyport/sallyport.hcl --json |
    jq -r '.[] | select(.error) | .name + ": " + .error'`,
		Args: onlyFlags,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needConfig(o.path); err != nil {
				return err
			}
			statuses, err := o.ask(cmd, "")
			if err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(cmd, statuses)
			}
			return writeCerts(cmd.OutOrStdout(), statuses, time.Now())
		},
	}
	o.flags(cmd)
	return cmd
}

func certsShowCommand() *cobra.Command {
	var o certsOptions
	cmd := &cobra.Command{
		Use:   "show NAME -c PATH",
		Short: "Show all that is known of a certificate, and its TLSA records",
		Long: `Show prints what is known of a certificate, and the DNS records that bind its
key to its names for DANE (RFC 6698, RFC 7671): TLSA 3 1 1, one for each name and
port that a listener serves it on, to be pasted into a zone that is signed. Such
a record stays good as long as the key does. The gateway keeps the key at each
renewal, unless key = "rollover"; then the record of the next key is shown as well,
to be published beside the other before the renewal (RFC 7671, 8.1). Of files, the
program decides that renews them.

NAME is that of the certificate block. Where each of its names has a certificate
of its own, show prints all, and NAME/HOST is one of them.`,
		Example: `  sallyport certs show mail -c /etc/sallyport/sallyport.hcl

  # the records alone
  sallyport certs show mail -c /etc/sallyport/sallyport.hcl --json | jq -r '.[].tlsa[]'`,
		Args:              o.oneName,
		ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needConfig(o.path); err != nil {
				return err
			}
			statuses, err := o.ask(cmd, args[0])
			if err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(cmd, statuses)
			}
			for i, s := range statuses {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := s.write(cmd.OutOrStdout(), time.Now()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	o.flags(cmd)
	return cmd
}

func certsRenewCommand() *cobra.Command {
	var o certsOptions
	cmd := &cobra.Command{
		Use:   "renew NAME -c PATH",
		Short: "Have a certificate issued anew, now",
		Long: `Renew has the running gateway order a certificate now, whatever is left of the
one it has, and waits for what comes of it. The gateway renews by itself, so this
is for a certificate that was revoked, or to see whether an order goes through.
New sessions get the new certificate at once; open ones notice nothing. When it
fails, the old one stays in use.

Authorities limit how many certificates they issue for the same names in a week.
A gateway has to run, since it answers the authority's challenges.`,
		Example:           `  sallyport certs renew mail -c /etc/sallyport/sallyport.hcl`,
		Args:              o.oneName,
		ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needConfig(o.path); err != nil {
				return err
			}
			return o.renew(cmd, args[0])
		},
	}
	o.flags(cmd)
	return cmd
}

// oneName demands the name of a certificate.
func (o *certsOptions) oneName(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usagef("NAME is missing: say which certificate, as in %s mail -c PATH; certs list shows all", cmd.CommandPath())
	case len(args) > 1:
		return usagef("%q is one too many: one certificate at a time, and the configuration goes behind -c", args[1])
	}
	return nil
}

// complete offers the names of certificates, once -c says whose.
func (o *certsOptions) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || o.path == "" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.SetErr(io.Discard) // a shell shows it amid the command line
	statuses, err := o.ask(cmd, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range statuses {
		names = append(names, cobra.CompletionWithDesc(s.Name, strings.Join(s.Names, ", ")))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// ask asks the gateway of a certificate, or of all, or finds out itself when no
// gateway runs.
func (o *certsOptions) ask(cmd *cobra.Command, name string) ([]certStatus, error) {
	page := "/certs"
	if name != "" {
		page += "/" + url.PathEscape(name)
	}
	var statuses []certStatus
	err := askControl(cmd.Context(), o.path, o.vars, page, &statuses)
	if !errors.Is(err, errNobody) {
		return statuses, err
	}
	complain(cmd.ErrOrStderr(), "no gateway runs with "+o.path+": this is what files and store hold")
	cfg, diags := config.Load(o.path, config.Options{Vars: o.vars})
	if diags.HasErrors() {
		diags.WriteTo(cmd.ErrOrStderr())
		return nil, fmt.Errorf("%s is not valid: %s", o.path, count(diags))
	}
	statuses = certStatuses(cfg, name)
	if name != "" && len(statuses) == 0 {
		return nil, noCertificate(cfg, name)
	}
	for i := range statuses {
		if s := &statuses[i]; s.From == fromOurselves { // the one just made is nobody's
			*s = certStatus{Name: s.Name, From: s.From, Names: s.Names, Listeners: s.Listeners, TLSA: s.TLSA, Error: "it is made when the gateway starts"}
		}
	}
	return statuses, nil
}

// renew asks the gateway to renew and says what comes of it.
func (o *certsOptions) renew(cmd *cobra.Command, name string) error {
	var ended []renewEvent
	failed := false
	err := callControl(cmd.Context(), "POST", o.path, o.vars, "/certs/"+url.PathEscape(name)+"/renew", func(r io.Reader) error {
		events := json.NewDecoder(r)
		begun := ""
		for {
			var e renewEvent
			if err := events.Decode(&e); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			switch {
			case e.Done == nil && e.Seconds == 0:
				complain(cmd.ErrOrStderr(), "certificate "+e.Name+": ordering a new one")
			case e.Done == nil:
				complain(cmd.ErrOrStderr(), fmt.Sprintf("certificate %s: still at it after %ds", e.Name, e.Seconds))
			case e.Error != "":
				failed = true
				complain(cmd.ErrOrStderr(), fmt.Sprintf("certificate %s: not renewed: %s", e.Name, oneLine(e.Error)))
			}
			if begun = e.Name; e.Done != nil {
				begun = ""
				ended = append(ended, e)
			}
		}
		if begun != "" || len(ended) == 0 {
			return errors.New("it ended before it said what came of the order; its log does")
		}
		return nil
	})
	if errors.Is(err, errNobody) {
		return fmt.Errorf("%w. Renewing needs a running gateway, which answers the authority's challenges: start it, and it renews by itself what is due", err)
	}
	if err != nil {
		return err
	}
	if o.asJSON {
		statuses := []*certStatus{}
		for _, e := range ended {
			statuses = append(statuses, e.Done)
		}
		if err := printJSON(cmd, statuses); err != nil {
			return err
		}
	} else {
		for _, e := range ended {
			if e.Error == "" {
				fmt.Fprintln(cmd.OutOrStdout(), e.verdict(time.Now()))
			}
		}
	}
	if failed {
		return errFailed
	}
	return nil
}

// verdict says in a line what is there now.
func (e *renewEvent) verdict(now time.Time) string {
	key := "its key is new, and so are its TLSA records (certs show)"
	if e.KeyKept {
		key = "its key is the old one, and so are its TLSA records"
	}
	return fmt.Sprintf("certificate %s: renewed, valid until %s (%s); %s", e.Name, e.Done.NotAfter.Local().Format(time.DateTime), daysLeft(e.Done.NotAfter, now), key)
}

// writeCerts prints the list for people.
func writeCerts(w io.Writer, statuses []certStatus, now time.Time) error {
	if len(statuses) == 0 {
		_, err := fmt.Fprintln(w, "No certificate.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tFROM\tNAMES\tISSUER\tKEY\tDAYS\tNEXT RENEWAL")
	for _, s := range statuses {
		days := "none"
		if !s.NotAfter.IsZero() {
			days = daysNumber(s.NotAfter, now)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.From, someOf(s.Names), oneLine(orDash(s.Issuer)), orDash(s.Key), days, moment(s.Next))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	gap := "\n"
	for _, s := range statuses {
		if s.Error != "" {
			if _, err := fmt.Fprintf(w, "%s%s: %s\n", gap, s.Name, oneLine(s.Error)); err != nil {
				return err
			}
			gap = ""
		}
	}
	return nil
}

// write prints all that is known of a certificate for people.
func (s *certStatus) write(w io.Writer, now time.Time) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(title, value string) {
		if value != "" {
			fmt.Fprintf(tw, "%s\t%s\n", title, oneLine(value))
		}
	}
	row("name", s.Name)
	row("from", s.From)
	row("authority", s.Authority)
	row("names", strings.Join(s.Names, ", "))
	row("listeners", orDash(strings.Join(s.Listeners, ", ")))
	row("issuer", s.Issuer)
	row("key", s.Key)
	row("serial", s.Serial)
	if !s.NotAfter.IsZero() {
		row("valid from", moment(s.NotBefore))
		row("valid until", fmt.Sprintf("%s (%s)", moment(s.NotAfter), daysLeft(s.NotAfter, now)))
	}
	if !s.Next.IsZero() {
		row("next renewal", moment(s.Next))
	}
	row("last error", s.Error)
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(s.TLSA) > 0 {
		fmt.Fprintln(w)
	}
	records := s.TLSA
	if len(s.NextTLSA) > 0 {
		records = slices.Concat(records, []string{"; of the next key: publish it beside the above before the next renewal"}, s.NextTLSA)
	}
	for _, record := range records {
		if _, err := fmt.Fprintln(w, record); err != nil {
			return err
		}
	}
	return nil
}

// someOf keeps a list short enough for a line.
func someOf(names []string) string {
	const most = 2
	if len(names) <= most+1 {
		return orDash(strings.Join(names, ","))
	}
	return fmt.Sprintf("%s,+%d", strings.Join(names[:most], ","), len(names)-most)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func daysNumber(until, now time.Time) string {
	if !now.Before(until) {
		return "expired"
	}
	return fmt.Sprint(int(until.Sub(now).Hours()) / 24)
}

func daysLeft(until, now time.Time) string {
	if !now.Before(until) {
		return "expired"
	}
	return plural(int(until.Sub(now).Hours())/24, "day") + " left"
}
