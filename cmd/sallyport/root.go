package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// The exit codes, which scripts rely on.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errFailed ends a command with exit code 1 when all there was to say has
// been said.
var errFailed = errors.New("failed")

// A usageError is a command line that cannot be obeyed: exit code 2.
type usageError struct{ error }

// usagef returns a usageError; the text says what to write instead.
func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// run is the whole program: results go to stdout, all else to stderr. It
// returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stdin, stdout, stderr)
	root.SetArgs(longVar(args))

	// What fails before a command has begun is the command line's fault.
	began := false
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }

	cmd, err := root.ExecuteC()
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFailed):
		return exitFailed
	case began && !errors.As(err, new(usageError)):
		complain(stderr, err.Error())
		return exitFailed
	default:
		complain(stderr, err.Error())
		complain(stderr, fmt.Sprintf("see '%s --help'", cmd.CommandPath()))
		return exitUsage
	}
}

func newRoot(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "A gate with two doors: STARTTLS and TLS in front of legacy servers",
		Long: `Sallyport ends TLS in front of servers that cannot be given modern TLS
themselves. Clients arrive in cleartext and ask for TLS in the protocol's own
words (STARTTLS), or arrive in TLS from the first byte; sallyport holds the
certificates and hands a cleartext stream to the server behind it.

Everything is said in one HCL file, or in a directory of them. A first visit:

  sallyport demo                                see it work, without any file
  sallyport check -c /etc/sallyport/sallyport.hcl   find every mistake in one
  sallyport run -c /etc/sallyport/sallyport.hcl     serve it

Results go to standard output, all else to standard error.
Exit codes: 0 all went well, 1 it failed, 2 the command line is wrong.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	// Before the completion command is made, which keeps what it finds.
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		runCommand(),
		checkCommand(),
		fmtCommand(),
		importCommand(),
		protocolsCommand(),
		probeCommand(),
		demoCommand(),
		certsCommand(),
		reportCommand(),
		versionCommand(),
	)
	addCompletion(root)
	return root
}

// complain writes a message to stderr, each line with the program's name.
func complain(w io.Writer, msg string) {
	for line := range strings.Lines(strings.TrimSpace(msg)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			continue
		}
		fmt.Fprintf(w, "sallyport: %s\n", line)
	}
}

// longVar lets -var be written with one dash, as in Terraform; flags of more
// than one letter take two here.
func longVar(args []string) []string {
	out := make([]string, 0, len(args))
	for i, arg := range args {
		if arg == "--" {
			return append(out, args[i:]...)
		}
		if arg == "-var" || strings.HasPrefix(arg, "-var=") {
			arg = "-" + arg
		}
		out = append(out, arg)
	}
	return out
}
