package main

import "github.com/spf13/cobra"

// addCompletion adds cobra's completion command with words of our own on how
// to install what it prints.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		// Without a function of its own, an unknown shell would get help and 0.
		cmd.Args = func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%q is not one of bash, zsh, fish, powershell", args[0])
			}
			return nil
		}
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		cmd.Short = "Print a script that completes commands and flags in your shell"
		cmd.Long = `Completion prints a script for bash, zsh, fish or powershell. Loaded by the
shell, it completes sallyport's commands, flags and files.`
		cmd.Example = `  # bash, for this session and for all (package bash-completion is needed)
  source <(sallyport completion bash)
  sallyport completion bash | sudo tee /etc/bash_completion.d/sallyport >/dev/null

  # zsh, for all sessions to come
  sallyport completion zsh > "${fpath[1]}/_sallyport"

  # fish, for all sessions to come
  sallyport completion fish > ~/.config/fish/completions/sallyport.fish`
	}
}
