package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unit writes a copy of a unit, with the binary where it is here.
func unit(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	write(t, path, strings.ReplaceAll(read(t, "systemd/"+name), "/usr/bin/sallyport", lab.binary))
	return path
}

// systemd finds nothing wrong with the units. Control: it does find a
// directive that it does not know.
func TestUnits(t *testing.T) {
	need(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	service, socket := unit(t, dir, "sallyport.service"), unit(t, dir, "sallyport.socket")
	verify := func(args ...string) string {
		cmd := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			out = []byte(err.Error())
		}
		return string(out)
	}
	if out := verify(service, socket); out != "" {
		t.Error(out)
	}
	text := read(t, service)
	write(t, service, strings.Replace(text, "NoNewPrivileges=", "NoNewPriviledges=", 1))
	if out := verify(service); !strings.Contains(out, "NoNewPriviledges") {
		t.Errorf("control: a word that is not one passes: %s", out)
	}
}

// The sandbox is as tight as it can be: systemd's own audit gives 1.7 of 10,
// where what is left is what a gateway does. Control: without the system call
// filter it is more.
func TestUnitIsSandboxed(t *testing.T) {
	need(t, "systemd-analyze", "systemd")
	path := unit(t, t.TempDir(), "sallyport.service")
	audit := func() error {
		return exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=18", path).Run()
	}
	if err := audit(); err != nil {
		t.Errorf("the exposure of sallyport.service is above 1.8: systemd-analyze security --offline=yes packaging/systemd/sallyport.service says why")
	}
	write(t, path, regexp.MustCompile(`(?m)^SystemCallFilter=.*\n`).ReplaceAllString(read(t, path), ""))
	if audit() == nil {
		t.Error("control: without a system call filter it passes, too")
	}
}

// Every system call that the gateway makes passes the filter of the unit.
// Control: without network I/O some would not.
func TestSystemCalls(t *testing.T) {
	need(t, "systemd-analyze", "systemd")
	need(t, "strace", "strace")
	trace := filepath.Join(t.TempDir(), "trace")
	// All threads from the first call on; the demo does what the gateway does,
	// with sessions of every kind.
	cmd := exec.Command("strace", "-f", "-qq", "-o", trace, lab.binary, "demo", "--once")
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "Operation not permitted") {
			lacking(t, "this machine does not let strace trace: %s", out)
		}
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	made := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +(\w+)\(`).FindAllStringSubmatch(read(t, trace), -1) {
		made[m[1]] = true
	}
	if !made["accept4"] || !made["sendto"] && !made["write"] {
		t.Fatalf("the trace is not one of a gateway: %v", made)
	}
	sets := syscallSets(t)
	refused := func(sets map[string][]string, filters []string) (calls []string) {
		allowed := map[string]bool{}
		for _, filter := range filters {
			list, deny := strings.CutPrefix(filter, "~")
			for _, word := range strings.Fields(list) {
				for _, call := range expand(sets, word) {
					allowed[call] = !deny
				}
			}
		}
		for call := range made {
			if !allowed[call] {
				calls = append(calls, call)
			}
		}
		slices.Sort(calls)
		return calls
	}
	var filters []string
	for _, m := range regexp.MustCompile(`(?m)^SystemCallFilter=(.*)$`).FindAllStringSubmatch(read(t, "systemd/sallyport.service"), -1) {
		filters = append(filters, m[1])
	}
	if len(filters) == 0 {
		t.Fatal("no SystemCallFilter=")
	}
	if calls := refused(sets, filters); calls != nil {
		t.Errorf("the filter of the unit refuses %v", calls)
	}
	if refused(sets, append(filters, "~@network-io")) == nil {
		t.Error("control: nothing is refused without network I/O")
	}
}

// syscallSets returns systemd's sets, whose members may be sets.
func syscallSets(t *testing.T) map[string][]string {
	sets, set := map[string][]string{}, ""
	for line := range strings.Lines(command(t, "systemd-analyze", "--no-pager", "syscall-filter")) {
		switch word := strings.TrimSpace(line); {
		case strings.HasPrefix(line, "@"):
			set = word
		case set != "" && strings.HasPrefix(line, "    ") && word != "" && !strings.HasPrefix(word, "#"):
			sets[set] = append(sets[set], word)
		}
	}
	return sets
}

func expand(sets map[string][]string, word string) (calls []string) {
	if !strings.HasPrefix(word, "@") {
		return []string{word}
	}
	for _, member := range sets[word] {
		calls = append(calls, expand(sets, member)...)
	}
	return calls
}

// What the unit relies on is there: the commands it runs, and the user that
// sysusers.d makes.
func TestUnitAgreesWithTheRest(t *testing.T) {
	text := read(t, "systemd/sallyport.service")
	for _, m := range regexp.MustCompile(`(?m)^Exec\w+=/usr/bin/sallyport (\w+) -c (\S+)$`).FindAllStringSubmatch(text, -1) {
		command(t, lab.binary, m[1], "--help")
		if m[2] != "/etc/sallyport/sallyport.hcl" {
			t.Errorf("the package installs /etc/sallyport/sallyport.hcl, and the unit reads %s", m[2])
		}
	}
	user := regexp.MustCompile(`(?m)^User=(\w+)$`).FindStringSubmatch(text)
	if user == nil || !regexp.MustCompile(`(?m)^u\s+`+user[1]+`\s`).MatchString(read(t, "systemd/sysusers.conf")) {
		t.Errorf("sysusers.conf does not make the user %v of the unit", user)
	}
	if sysusers, err := exec.LookPath("systemd-sysusers"); err == nil {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		conf, err := filepath.Abs("systemd/sysusers.conf")
		if err != nil {
			t.Fatal(err)
		}
		command(t, sysusers, "--root="+root, conf)
		if !strings.Contains(read(t, filepath.Join(root, "etc/passwd")), user[1]+":x:") {
			t.Errorf("systemd-sysusers did not make the user %s", user[1])
		}
	}
}
