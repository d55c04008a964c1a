package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/config"
	"github.com/sallyport/sallyport/migrate"
	"github.com/sallyport/sallyport/upgraders/all"
)

func importCommand() *cobra.Command {
	var from, output string
	cmd := &cobra.Command{
		Use:   "import [stunnel | nginx] FILE [-o FILE]",
		Short: "Turn a configuration of stunnel or nginx into one of sallyport",
		Long: `Import reads stunnel.conf, or the mail and stream blocks of nginx.conf, and
writes HCL that check accepts. Which of the two it is, the file shows by itself;
where it does not, write the name before it, or --from. Included files are read
too. With "-" the configuration comes from standard input.

What has no counterpart is named twice, with its line and the reason: as a
comment beside the block it would belong to, and on standard error. What would
let in more than before, since something that guarded it is lost, is written as
a comment, whole. Read these before you run the result, and check it on the
machine it is for: check opens the certificates.

Exit codes: 0 a configuration was written, 1 nothing could be carried over or
the file cannot be read, 2 the command line is wrong.`,
		Example: `  sallyport import /etc/stunnel/stunnel.conf -o sallyport.hcl
  sallyport check -c sallyport.hcl

  sallyport import nginx nginx.conf.old | less
  nginx -T 2>/dev/null | sallyport import nginx - -o sallyport.hcl`,
		ValidArgsFunction: completeImport,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && slices.Contains(migrate.Programs(), args[0]) && (len(args) == 2 || !isThere(args[0])) {
				if from != "" && from != args[0] {
					return usagef("%s or --from %s: which is it?", args[0], from)
				}
				from, args = args[0], args[1:]
			}
			switch {
			case from != "" && !slices.Contains(migrate.Programs(), from):
				return usagef("--from %s is not known: write %s", from, strings.Join(migrate.Programs(), " or "))
			case len(args) == 0:
				return usagef("which file? As in %s /etc/stunnel/stunnel.conf", cmd.CommandPath())
			case len(args) > 1:
				return usagef("%q is one too many: import one file, which includes the others", args[1])
			}
			return importFile(cmd, from, args[0], output)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "what kind of `CONFIGURATION` it is: stunnel or nginx")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this new `FILE` instead of standard output")
	// The only error is an unknown flag.
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions(migrate.Programs(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagFilename("output", "hcl")
	return cmd
}

func completeImport(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		return migrate.Programs(), cobra.ShellCompDirectiveDefault
	case len(args) == 1 && slices.Contains(migrate.Programs(), args[0]):
		return nil, cobra.ShellCompDirectiveDefault
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func isThere(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func importFile(cmd *cobra.Command, from, name, output string) error {
	file, opts, err := readForeign(cmd.InOrStdin(), name)
	if err != nil {
		return err
	}
	if from == "" {
		if from, err = migrate.Detect(file); err != nil {
			return usagef("%s: %v: write --from %s", file.Name, err, strings.Join(migrate.Programs(), " or --from "))
		}
	}
	res, err := migrate.Convert(from, file, opts)
	if err != nil {
		return err
	}
	lost := 0
	for _, n := range res.Notes {
		complain(cmd.ErrOrStderr(), n.String())
		if n.Lost {
			lost++
		}
	}
	if res.Listeners == 0 {
		return fmt.Errorf("%s: nothing that could run was carried over, and nothing is written", file.Name)
	}
	formatted, diags := config.Format(res.HCL, "sallyport.hcl")
	if diags.HasErrors() {
		return fmt.Errorf("%s: the result is not HCL, which is a bug of sallyport: %w", file.Name, diags)
	}
	if err := writeNew(cmd.OutOrStdout(), output, formatted); err != nil {
		return err
	}
	complain(cmd.ErrOrStderr(), fmt.Sprintf("%s: %s written; %s not carried over, %s changed", file.Name,
		plural(res.Listeners, "listener"), plural(lost, "setting"), plural(len(res.Notes)-lost, "setting")))
	return nil
}

// readForeign reads a configuration of another program, and says how it reads
// what that includes.
func readForeign(stdin io.Reader, name string) (migrate.File, migrate.Options, error) {
	opts := migrate.Options{Protocols: all.Protocols()}
	if name == "-" {
		text, err := io.ReadAll(io.LimitReader(stdin, maxForeign+1))
		if err == nil && len(text) > maxForeign {
			err = errLarge
		}
		return migrate.File{Name: "<stdin>", Text: text}, opts, err
	}
	file, err := readFile(name)
	if err != nil {
		return file, opts, err
	}
	// nginx takes relative paths from the directory of its first file.
	if opts.Dir, err = filepath.Abs(filepath.Dir(name)); err != nil {
		return file, opts, err
	}
	opts.Include = func(pattern string) (files []migrate.File, err error) {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(opts.Dir, pattern)
		}
		return readMatching(pattern)
	}
	return file, opts, nil
}

// readMatching reads the files that a pattern names. One without a wildcard
// must be there.
func readMatching(pattern string) (files []migrate.File, err error) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	if len(names) == 0 && !strings.ContainsAny(pattern, "*?[") {
		names = []string{pattern}
	}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			continue
		}
		file, err := readFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

const maxForeign = 4 << 20

var errLarge = errors.New("the configuration is larger than 4 MiB")

func readFile(name string) (migrate.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return migrate.File{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxForeign+1))
	if err == nil && len(text) > maxForeign {
		err = fmt.Errorf("%s: %w", name, errLarge)
	}
	return migrate.File{Name: name, Text: text}, err
}

// writeNew writes to a file that is not there yet: one that is may be what a
// gateway runs on.
func writeNew(stdout io.Writer, name string, text []byte) error {
	if name == "" {
		_, err := stdout.Write(text)
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: write to another file, or remove it", name)
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
