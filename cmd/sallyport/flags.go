package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
)

// configFlag adds -c to a command and completes it with files that can be a
// configuration.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "`PATH` of the configuration: a file, or a directory of *.hcl and *.hcl.json files")
	// The only error is an unknown flag.
	_ = cmd.MarkFlagFilename("config", "hcl", "json")
}

// onlyFlags refuses arguments, which are most likely paths without their -c.
func onlyFlags(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("%q is one too many: the configuration goes behind -c, as in %s -c %s", args[0], cmd.CommandPath(), args[0])
}

// varFlag adds -var to a command.
func varFlag(cmd *cobra.Command, vars *map[string]string) {
	cmd.Flags().Var((*varsValue)(vars), "var", "value of a variable block (repeatable); also $SALLYPORT_VAR_name")
}

// varsValue collects name=value. Values may hold anything, commas too, which
// pflag's own map type would split at.
type varsValue map[string]string

func (v *varsValue) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return errors.New("want name=value")
	}
	if *v == nil {
		*v = varsValue{}
	}
	(*v)[name] = value
	return nil
}

func (v *varsValue) String() string { return "" }
func (v *varsValue) Type() string   { return "name=value" }

func needConfig(path string) error {
	if path == "" {
		return usagef("-c is missing: say which configuration, as in -c /etc/sallyport/sallyport.hcl")
	}
	return nil
}
