package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// checkLive asks the servers of a configuration what only they know, and
// prints a line for each finding. It returns how many of either kind.
func checkLive(cmd *cobra.Command, cfg *gateway.Config) (errors, warnings int, err error) {
	stderr := cmd.ErrOrStderr()
	audits, err := gateway.AuditBackends(cmd.Context(), cfg, func(a *gateway.Audit) {
		complain(stderr, fmt.Sprintf("asked %s", subject(a)))
	})
	if err != nil {
		return 0, 0, err
	}
	for _, a := range audits {
		for _, f := range a.Findings {
			if f.Severity == upgraders.Wrong {
				errors++
			} else {
				warnings++
			}
			line := fmt.Sprintf("%s: %s: %s", f.Severity, subject(a), f.What)
			if f.Mend != "" {
				line += ". Mend it: " + f.Mend
			}
			fmt.Fprintln(cmd.OutOrStdout(), oneLine(line))
		}
	}
	return errors, warnings, nil
}

func subject(a *gateway.Audit) string {
	return fmt.Sprintf("backend %q, %s (%s)", a.Backend, a.Server, a.Protocol)
}

// oneLine keeps what a server said from doing something to a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
