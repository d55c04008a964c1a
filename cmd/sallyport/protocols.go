package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/all"
)

func protocolsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "protocols",
		Short: "List the protocols that are spoken, with ports and RFCs",
		Long: `Protocols prints what the first label of a listener may be:

  listener "smtp" "submission" { … }
            ^^^^

ASKED WITH is what a client says to begin TLS on the ports under STARTTLS. On
the ports under IMPLICIT, TLS comes first. A listener on one of these ports
needs no mode; on any other port it says mode = "starttls" or "implicit".

ALPN are the ids that a client may offer. One that offers none is accepted too;
one that offers only others is turned away.`,
		Example: `  sallyport protocols
  sallyport protocols --json | jq -r '.[].name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd, protocolRows(all.Protocols()))
			}
			return writeProtocols(cmd.OutOrStdout(), all.Protocols())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for scripts")
	return cmd
}

// protocolRow is a protocol as scripts see it. Lists are never null.
type protocolRow struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Keyword  string   `json:"keyword"` // empty: implicit TLS only
	Ports    []uint16 `json:"ports"`
	Implicit []uint16 `json:"implicit_ports"`
	ALPN     []string `json:"alpn"`
	Spec     string   `json:"spec"`
}

func protocolRows(protocols []*upgraders.Protocol) []protocolRow {
	rows := []protocolRow{}
	for _, p := range protocols {
		rows = append(rows, protocolRow{
			Name: p.Name, Title: p.Title, Keyword: p.Keyword, Spec: p.Spec,
			Ports:    append([]uint16{}, p.Ports...),
			Implicit: append([]uint16{}, p.Implicit...),
			ALPN:     append([]string{}, p.ALPN...),
		})
	}
	return rows
}

func writeProtocols(w io.Writer, protocols []*upgraders.Protocol) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tTITLE\tASKED WITH\tSTARTTLS\tIMPLICIT\tALPN\tSPEC")
	for _, p := range protocols {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Title, orDash(p.Keyword),
			ports(p.Ports), ports(p.Implicit), orDash(strings.Join(p.ALPN, ", ")), orDash(p.Spec))
	}
	return tw.Flush()
}

func ports(list []uint16) string {
	var s []string
	for _, p := range list {
		s = append(s, strconv.Itoa(int(p)))
	}
	return orDash(strings.Join(s, ", "))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
