package main

import (
	"github.com/spf13/cobra"
)

// runOptions is the command line of run.
type runOptions struct {
	path  string
	vars  map[string]string
	watch bool
}

func runCommand() *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run -c PATH",
		Short: "Run the gateway",
		Long: `Run serves the listeners of a configuration until it is told to stop. It logs
to standard error and says nothing on standard output.

SIGHUP reads the configuration and the certificates again. What is new is built
and bound before anything old is touched, and open sessions live on. When the
new configuration is wrong, the old one stays in use and the log says what is
wrong with the new. Everything can change this way but the state directory,
which needs a restart. With --watch the same happens by itself when a file of
the configuration changes; a Kubernetes ConfigMap is such a file. Certificates
are always watched: files are read again when they change, and what an authority
issues (ACME) is ordered, renewed and served without a reload.

SIGTERM and SIGINT stop accepting, fail /readyz, and let sessions end by
themselves, for as long as the drain_timeout of their policy. A second SIGTERM
or SIGINT ends them at once.

Under systemd (Type=notify or notify-reload) run says when it is ready, reloads
and stops, and feeds the watchdog. Sockets of a socket unit are used for the
addresses they are bound to.

Exit codes: 0 every session ended by itself, 1 sessions had to be ended or the
gateway could not start, 2 the command line is wrong.`,
		Example: `  # find mistakes first
  sallyport check -c /etc/sallyport/sallyport.hcl

  sallyport run -c /etc/sallyport/sallyport.hcl
  sallyport run -c /etc/sallyport/conf.d --watch
  sallyport run -c sallyport.hcl -var domain=example.org

  # reload, stop
  kill -HUP $(pidof sallyport)
  kill $(pidof sallyport)`,
		Args: onlyFlags,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needConfig(opts.path); err != nil {
				return err
			}
			s := newServer(opts, cmd.ErrOrStderr())
			signals := stopSignals()
			defer signals.stop()
			if err := s.start(); err != nil {
				return err
			}
			return s.wait(signals)
		},
	}
	configFlag(cmd, &opts.path)
	varFlag(cmd, &opts.vars)
	cmd.Flags().BoolVar(&opts.watch, "watch", false, "reload when the files of the configuration change")
	return cmd
}
