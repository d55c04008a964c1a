package packaging

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	alertsFile    = "prometheus/alerts.yml"
	dashboardFile = "grafana/sallyport.json"
)

// Prometheus takes the alerts; each fires on a bad day and none on a quiet one.
func TestAlerts(t *testing.T) {
	need(t, "promtool", "prometheus")
	command(t, "promtool", "check", "rules", alertsFile)
	command(t, "promtool", "test", "rules", "testdata/alerts_test.yml")
	tests := read(t, "testdata/alerts_test.yml")
	for _, a := range alerts(t) {
		if !strings.Contains(tests, `alertname="`+a.Alert+`"`) {
			t.Errorf("no test sees %s fire", a.Alert)
		}
		for _, key := range []string{"summary", "description"} {
			if a.Annotations[key] == "" {
				t.Errorf("%s has no %s: say what has happened and what to do", a.Alert, key)
			}
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s has no severity", a.Alert)
		}
	}
}

type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal([]byte(read(t, alertsFile)), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no alerts", alertsFile)
	}
	return all
}

// The dashboard is JSON that Grafana takes, its panels do not overlap, and its
// queries are PromQL.
func TestDashboard(t *testing.T) {
	need(t, "promtool", "prometheus")
	var board struct {
		UID, Title string
		Panels     []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &board); err != nil {
		t.Fatal(err)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	var rules strings.Builder
	rules.WriteString("groups: [{name: dashboard, rules: [\n")
	for _, p := range board.Panels {
		if p.ID == 0 || ids[p.ID] {
			t.Errorf("panel %q: its id %d is not its own", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] > 23 {
					t.Errorf("panel %q lies over %q, or beyond the edge", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for i, target := range p.Targets {
			fmt.Fprintf(&rules, "{record: \"panel:%d:%d\", expr: %s},\n", p.ID, i, strconv.Quote(plain(target.Expr)))
		}
	}
	rules.WriteString("]}]\n")
	file := filepath.Join(t.TempDir(), "rules.yml")
	write(t, file, rules.String())
	command(t, "promtool", "check", "rules", "--lint=none", file)
}

// plain puts values in place of Grafana's variables.
func plain(expr string) string {
	return regexp.MustCompile(`\$\w+`).ReplaceAllStringFunc(expr, func(name string) string {
		if strings.HasPrefix(name, "$__") {
			return "5m"
		}
		return ".*"
	})
}

// Alerts and dashboard speak of metrics that exist, by labels that they have
// and values that occur; the dashboard shows each metric there is.
func TestMonitoringNamesWhatExists(t *testing.T) {
	source := read(t, "../gateway/metrics.go")
	labels := map[string][]string{} // of each metric
	for _, m := range regexp.MustCompile(`(?s)"(sallyport_\w+)".*?(?:\n\t\t\}\)|, \[\]string\{([^}]*)\}|Labels\{([^}]*)\})`).FindAllStringSubmatch(source, -1) {
		for _, l := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(m[2]+m[3], -1) {
			labels[m[1]] = append(labels[m[1]], l[1])
		}
		labels[m[1]] = append(labels[m[1]], "instance", "job", "le")
	}
	if len(labels) < 10 || !slices.Contains(labels["sallyport_sessions_total"], "outcome") || slices.Contains(labels["sallyport_handshake_seconds"], "listener") {
		t.Fatalf("metrics.go is not understood: %v", labels)
	}
	words := source + read(t, "../gateway/outcome.go") + read(t, "../gateway/handshake.go") + read(t, "../upgraders/reason.go") + read(t, "../upgraders/upgraders.go")

	board := read(t, dashboardFile)
	var exprs []string
	for _, m := range regexp.MustCompile(`"(?:expr|query|definition)": ("(?:[^"\\]|\\.)*")`).FindAllStringSubmatch(board, -1) {
		expr, err := strconv.Unquote(m[1])
		if err != nil {
			t.Fatal(err)
		}
		exprs = append(exprs, expr)
	}
	for _, a := range alerts(t) {
		exprs = append(exprs, a.Expr)
	}
	for _, expr := range exprs {
		for _, m := range regexp.MustCompile(`\b(sallyport_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(expr, -1) {
			has, ok := labels[strings.TrimSuffix(m[1], "_bucket")]
			if !ok {
				t.Errorf("there is no metric %s: %s", m[1], expr)
				continue
			}
			for _, l := range regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(has, l[1]) {
					t.Errorf("%s has no label %s: %s", m[1], l[1], expr)
				}
				for value := range strings.SplitSeq(l[2], "|") {
					if !strings.HasPrefix(value, "$") && !strings.Contains(words, `"`+value+`"`) {
						t.Errorf("%s is never %q: %s", l[1], value, expr)
					}
				}
			}
		}
	}
	for name := range labels {
		if !strings.Contains(board, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}
