package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/config"
)

func fmtCommand() *cobra.Command {
	var (
		path  string
		check bool
	)
	cmd := &cobra.Command{
		Use:   "fmt [-c PATH] [FILE | DIRECTORY | -]...",
		Short: "Give configuration files their canonical form",
		Long: `Fmt aligns, indents and spaces configuration files as everybody's files are,
changes nothing else, and writes them in place; the names of files that changed
are printed. Of a directory, its *.hcl and *.hcl.json files are taken, not those
below it. With "-" it reads HCL from standard input and writes to standard output.

A file with a syntax error is left alone and its mistakes are shown.

Exit codes: 0 done, 1 a file could not be formatted (with --check: is not
formatted), 2 the command line is wrong.`,
		Example: `  sallyport fmt /etc/sallyport/sallyport.hcl
  sallyport fmt -c /etc/sallyport/conf.d
  sallyport fmt --check ./conf.d                         # in a pipeline
  sallyport fmt - < sallyport.hcl | diff sallyport.hcl -  # what would change`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if path != "" {
				args = append([]string{path}, args...)
			}
			f := &formatter{check: check, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
			switch {
			case len(args) == 0:
				return usagef("nothing to format: name a file, a directory, or - for standard input")
			case len(args) == 1 && args[0] == "-":
				return f.stdin(cmd.InOrStdin())
			}
			for _, arg := range args {
				if arg == "-" {
					return usagef("- is standard input and stands alone")
				}
				if err := f.path(arg); err != nil {
					f.fail(err)
				}
			}
			if f.failed {
				return errFailed
			}
			return nil
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; name the files that are not formatted and exit 1 if there are any")
	return cmd
}

// A formatter formats files and remembers whether one failed.
type formatter struct {
	check  bool
	failed bool
	out    io.Writer
	err    io.Writer
}

func (f *formatter) fail(err error) {
	f.failed = true
	complain(f.err, err.Error())
}

func (f *formatter) path(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return f.file(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isConfigName(e.Name()) {
			if err := f.file(filepath.Join(path, e.Name())); err != nil {
				f.fail(err)
			}
		}
	}
	return nil
}

func (f *formatter) file(name string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	formatted, err := f.format(name, src)
	if err != nil || bytes.Equal(src, formatted) {
		return err
	}
	fmt.Fprintln(f.out, name)
	if f.check {
		f.failed = true
		return nil
	}
	return overwrite(name, src, formatted)
}

func (f *formatter) stdin(in io.Reader) error {
	src, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	formatted, err := f.format("<stdin>", src)
	if err != nil {
		return err
	}
	if f.check {
		if !bytes.Equal(src, formatted) {
			return fmt.Errorf("standard input is not formatted")
		}
		return nil
	}
	_, err = f.out.Write(formatted)
	return err
}

// format returns the canonical form. What is wrong with the source goes to
// standard error, with its lines.
func (f *formatter) format(name string, src []byte) ([]byte, error) {
	formatted, diags := config.Format(src, name)
	if diags.HasErrors() {
		diags.WriteTo(f.err)
		return nil, fmt.Errorf("%s is left as it is: %s", name, count(diags))
	}
	return formatted, nil
}

// overwrite writes in place, so that owner, links and labels stay as they are,
// and puts the old content back when the disk is full.
func overwrite(name string, old, formatted []byte) error {
	err := os.WriteFile(name, formatted, 0o644)
	if err != nil {
		if restored := os.WriteFile(name, old, 0o644); restored != nil {
			err = fmt.Errorf("%w; the old content could not be put back: %w", err, restored)
		}
	}
	return err
}
