//go:build unix

package acme

import (
	"os/exec"
	"syscall"
)

// isolate puts a program into a process group of its own, so that what it has
// started is killed with it.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
