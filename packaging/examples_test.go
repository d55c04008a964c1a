package packaging

import (
	"fmt"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/sallyport/sallyport/config"
)

// Every directory of examples says what it is and what else must be set.
func TestExamplesHaveREADMEs(t *testing.T) {
	dirs, err := filepath.Glob("../examples/*")
	if err != nil || len(dirs) < 4 {
		t.Fatalf("examples are missing: %v %v", dirs, err)
	}
	for _, dir := range dirs {
		read(t, filepath.Join(dir, "README.md"))
	}
}

// HAProxy takes the example's haproxy.cfg, which leads to the listeners and to
// the admin port of the configuration beside it.
func TestLoadBalancerExample(t *testing.T) {
	need(t, "haproxy", "haproxy")
	const file = "../examples/load-balancer/haproxy.cfg"
	command(t, "haproxy", "-c", "-f", file)
	text := read(t, file)
	cfg, diags := config.Load("../examples/load-balancer/sallyport.hcl", config.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, l := range cfg.Gateway.Listeners {
		if len(l.Policy.ProxyFrom) == 0 {
			t.Errorf("listener %s takes no PROXY header", l.Name)
		}
		for _, address := range l.Addresses {
			p := port(t, address)
			for _, want := range []string{fmt.Sprintf(`(?m)^\s+bind :%d$`, p), fmt.Sprintf(`(?m)^\s+server \S+ \S+:%d$`, p)} {
				if !regexp.MustCompile(want).MatchString(text) {
					t.Errorf("haproxy.cfg has no line %s for listener %s", want, l.Name)
				}
			}
		}
	}
	if want := fmt.Sprintf(" check port %d ", port(t, cfg.Admin.Address)); !regexp.MustCompile(want).MatchString(text) {
		t.Errorf("haproxy.cfg does not ask for health with %q", want)
	}
}
