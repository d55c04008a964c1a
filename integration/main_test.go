package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// lab is what all tests of one run share. Servers in it start when a test
// first asks for them.
var lab struct {
	dir    string // everything lives below; short, since socket paths are
	home   string // of the clients
	binary string // the gateway
	pki    *pki
	guard  *guard
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if testing.Short() {
		fmt.Println("integration: skipped by -short")
		return 0
	}
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "8") // they wait more than they compute
	}
	// Where Debian keeps servers.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
	if err := adopt(); err != nil {
		fmt.Fprintln(os.Stderr, "integration: become the parent of orphans:", err)
		return 1
	}
	var err error
	if lab.guard, err = newGuard(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	defer func() {
		stopServers()
		lab.guard.dismiss()
		for _, child := range orphans() {
			fmt.Fprintln(os.Stderr, "integration: left behind:", child)
			code = 1
		}
		if code != 0 {
			fmt.Fprintln(os.Stderr, "integration: configurations and logs are kept in", lab.dir)
			return
		}
		os.RemoveAll(lab.dir)
	}()
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	return m.Run()
}

// setUp makes the directory, the certificates and the gateway's binary.
func setUp() (err error) {
	if lab.dir, err = os.MkdirTemp("", "sallyport-"); err != nil {
		return err
	}
	// Postfix and Dovecot pass through as users of their own.
	if err := os.Chmod(lab.dir, 0o711); err != nil {
		return err
	}
	lab.home = filepath.Join(lab.dir, "home")
	if err := os.Mkdir(lab.home, 0o700); err != nil {
		return err
	}
	if lab.pki, err = newPKI(filepath.Join(lab.dir, "pki")); err != nil {
		return err
	}
	if lab.binary = os.Getenv("SALLYPORT"); lab.binary != "" {
		return nil // built elsewhere, with -race, say
	}
	lab.binary = filepath.Join(lab.dir, "sallyport")
	build := exec.Command("go", "build", "-o", lab.binary, "../cmd/sallyport")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	return nil
}
