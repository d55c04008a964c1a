package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// theDeb is built once.
func theDeb(t *testing.T) string {
	t.Helper()
	if lab.deb == "" {
		lab.deb = buildDeb(t, filepath.Join(lab.dir, "deb"), "")
	}
	return lab.deb
}

// buildDeb runs the script that `make deb` runs.
func buildDeb(t *testing.T, out, shell string, env ...string) string {
	t.Helper()
	need(t, "dpkg-deb", "dpkg")
	cmd := exec.Command("sh", "-c", shell+" exec ../scripts/build-deb.sh")
	cmd.Env = append(os.Environ(), append(env, "OUT="+out, "VERSION=1.2.3", "SOURCE_DATE_EPOCH=1700000000", "GOARCH="+runtime.GOARCH)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	said, err := cmd.Output()
	if err != nil {
		t.Fatalf("build-deb.sh: %v\n%s%s", err, said, &stderr)
	}
	return strings.TrimSpace(string(said))
}

// The package has what it should have where Debian wants it, and what was
// unpacked works: the binary runs, the configuration that comes with it passes
// check --strict, the unit finds its manual, all checksums are right.
func TestDeb(t *testing.T) {
	deb := theDeb(t)
	if want := "sallyport_1.2.3-1_"; !strings.HasPrefix(filepath.Base(deb), want) || !strings.HasSuffix(deb, ".deb") {
		t.Errorf("the package is named %s", deb)
	}
	info := command(t, "dpkg-deb", "--info", deb)
	for _, want := range []string{"Package: sallyport\n", "Version: 1.2.3-1\n", "Architecture: ", "Depends: adduser\n", "\n Description: STARTTLS"} {
		if !strings.Contains(info, want) {
			t.Errorf("dpkg-deb --info does not say %q:\n%s", want, info)
		}
	}
	contents := command(t, "dpkg-deb", "--contents", deb)
	for _, want := range []string{
		`-rwxr-xr-x root/root .* \./usr/bin/sallyport`,
		`-rw-r--r-- root/root .* \./lib/systemd/system/sallyport\.service`,
		`-rw-r--r-- root/root .* \./usr/lib/sysusers\.d/sallyport\.conf`,
		`-rw-r--r-- root/root .* \./etc/sallyport/sallyport\.hcl`,
		`.* \./usr/share/man/man1/sallyport\.1\.gz`,
		`.* \./usr/share/man/man1/sallyport-run\.1\.gz`,
		`.* \./usr/share/man/man5/sallyport\.hcl\.5\.gz`,
		`.* \./usr/share/bash-completion/completions/sallyport`,
		`.* \./usr/share/zsh/vendor-completions/_sallyport`,
		`.* \./usr/share/fish/vendor_completions\.d/sallyport\.fish`,
		`.* \./usr/share/doc/sallyport/copyright`,
		`.* \./usr/share/doc/sallyport/licences\.gz`,
		`.* \./usr/share/doc/sallyport/changelog\.gz`,
		`.* \./usr/share/doc/sallyport/changelog\.Debian\.gz`,
		`.* \./usr/share/doc/sallyport/docs/operations\.md`,
		`.* \./usr/share/doc/sallyport/examples/sallyport\.socket`,
		`.* \./usr/share/doc/sallyport/examples/mail/sallyport\.hcl`,
	} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(contents) {
			t.Errorf("the package has no %s:\n%s", want, contents)
		}
	}
	for line := range strings.Lines(contents) {
		if f := strings.Fields(line); f[1] != "root/root" || f[3] != "2023-11-14" || f[0][8] == 'w' || f[0][5] == 'w' || f[0][3] == 's' {
			t.Errorf("want files of root's, for nobody else to write, of the time that was set: %s", line)
		}
	}

	root, control := t.TempDir(), t.TempDir()
	command(t, "dpkg-deb", "--extract", deb, root)
	command(t, "dpkg-deb", "--control", deb, control)
	binary := filepath.Join(root, "usr/bin/sallyport")
	if out := command(t, binary, "version"); !strings.HasPrefix(out, "sallyport ") {
		t.Errorf("sallyport version: %s", out)
	}
	command(t, binary, "check", "--strict", "-c", filepath.Join(root, "etc/sallyport/sallyport.hcl"))
	command(t, binary, "fmt", "--check", filepath.Join(root, "etc/sallyport"))
	sums := exec.Command("md5sum", "--check", "--strict", "--quiet", filepath.Join(control, "md5sums"))
	sums.Dir = root
	output(t, sums)

	// Files in /etc are the administrator's, all of them.
	var etc []string
	for _, m := range regexp.MustCompile(`(?m)^-.* \.(/etc/\S+)$`).FindAllStringSubmatch(contents, -1) {
		etc = append(etc, m[1])
	}
	conffiles := strings.Fields(read(t, filepath.Join(control, "conffiles")))
	slices.Sort(etc)
	slices.Sort(conffiles)
	if !slices.Equal(etc, conffiles) {
		t.Errorf("conffiles are %v, and in /etc are %v", conffiles, etc)
	}
	for _, m := range regexp.MustCompile(`man:([\w.]+)\((\d)\)`).FindAllStringSubmatch(read(t, "systemd/sallyport.service"), -1) {
		if _, err := os.Stat(filepath.Join(root, "usr/share/man/man"+m[2], m[1]+"."+m[2]+".gz")); err != nil {
			t.Errorf("the unit names a page that is not there: %v", err)
		}
	}
	command(t, "bash", "-n", filepath.Join(root, "usr/share/bash-completion/completions/sallyport"))
	if text := command(t, "zcat", filepath.Join(root, "usr/share/doc/sallyport/licences.gz")); !strings.Contains(text, "---- github.com/hashicorp/hcl/v2 ") {
		t.Error("the licences of what is linked in are not there")
	}
	if _, err := exec.LookPath("lintian"); err == nil {
		t.Run("lintian", func(t *testing.T) {
			command(t, "lintian", "--allow-root", "--fail-on=error,warning", "--suppress-tags=initial-upload-closes-no-bugs", deb)
		})
	}
}

// The same sources make the same package, whoever builds it where.
func TestDebIsReproducible(t *testing.T) {
	sum := func(deb string) string { return strings.Fields(command(t, "sha256sum", deb))[0] }
	one := sum(theDeb(t))
	if other := sum(buildDeb(t, t.TempDir(), "umask 077;", "TMPDIR="+t.TempDir(), "TZ=Asia/Kathmandu", "LC_ALL=C.UTF-8", "HOSTNAME=elsewhere")); one != other {
		t.Errorf("two builds differ: %s and %s", one, other)
	}
}

// A new installation makes the user and closes the directory of keys; an
// upgrade leaves both alone; what is called is what exists in Debian.
func TestMaintainerScripts(t *testing.T) {
	for _, c := range []struct {
		name, script  string
		args          []string
		user          bool // is there already
		calls, spares []string
	}{
		{"install", "postinst", []string{"configure", ""}, false,
			[]string{"adduser --quiet --system --group --no-create-home --home /var/lib/sallyport sallyport", "chown root:sallyport /etc/sallyport", "chmod 0750 /etc/sallyport"}, nil},
		{"upgrade", "postinst", []string{"configure", "1.2.2-1"}, true, nil, []string{"adduser", "chown", "chmod"}},
		{"reinstall", "postinst", []string{"configure", ""}, true, []string{"chmod 0750 /etc/sallyport"}, []string{"adduser"}},
		{"remove", "postrm", []string{"remove"}, true, nil, []string{"rm"}},
		{"purge", "postrm", []string{"purge"}, true, []string{"rm -rf /var/lib/sallyport"}, nil},
		{"prerm", "prerm", []string{"remove"}, true, nil, []string{"rm"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			log := filepath.Join(dir, "log")
			for _, tool := range []string{"adduser", "chown", "chmod", "rm", "systemctl", "getent", "dpkg-statoverride"} {
				exit := "0"
				if tool == "dpkg-statoverride" || tool == "getent" && !c.user {
					exit = "1"
				}
				path := filepath.Join(dir, tool)
				write(t, path, "#!/bin/sh\necho "+tool+` "$@" >>`+log+"\nexit "+exit+"\n")
				if err := os.Chmod(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write(t, log, "")
			cmd := exec.Command("/bin/sh", append([]string{"debian/" + c.script}, c.args...)...)
			cmd.Env = []string{"PATH=" + dir}
			output(t, cmd)
			called := read(t, log)
			for _, want := range c.calls {
				if !strings.Contains(called, want+"\n") {
					t.Errorf("%q is not called:\n%s", want, called)
				}
			}
			for _, bad := range c.spares {
				if regexp.MustCompile(`(?m)^` + bad + ` `).MatchString(called) {
					t.Errorf("%s is called:\n%s", bad, called)
				}
			}
		})
	}
}
