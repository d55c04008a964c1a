package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/config"
)

func checkCommand() *cobra.Command {
	var (
		path   string
		vars   map[string]string
		strict bool
	)
	cmd := &cobra.Command{
		Use:   "check -c PATH",
		Short: "Find every mistake in a configuration, each with its source line",
		Long: `Check loads a configuration as run would, certificates and all, and starts
nothing. Everything that is wrong (errors) or doubtful (warnings) is shown at
once, each with the line it is about and what to write instead. The last line
sums up.

Exit codes: 0 the configuration can be run, 1 it cannot (with --strict: or there
are warnings), 2 the command line is wrong.`,
		Example: `  sallyport check -c /etc/sallyport/sallyport.hcl

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
			if diags.HasErrors() || strict && diags.Warnings() > 0 {
				fmt.Fprintf(out, "%s: %s\n", path, count(diags))
				return errFailed
			}
			fmt.Fprintf(out, "%s: valid, %s and %s", path,
				plural(len(cfg.Gateway.Listeners), "listener"), plural(len(cfg.Gateway.Backends), "backend"))
			if diags.Warnings() > 0 {
				fmt.Fprintf(out, "; %s", count(diags))
			}
			fmt.Fprintln(out)
			return nil
		},
	}
	configFlag(cmd, &path)
	varFlag(cmd, &vars)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings, too")
	return cmd
}

// count sums up diagnostics: "2 errors, 1 warning".
func count(d *config.Diagnostics) string {
	switch errors, warnings := d.Errors(), d.Warnings(); {
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
