package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A Prometheus that scrapes the gateway evaluates every alert and answers every
// query of the dashboard that we ship; those of what the gateway has done have
// an answer, and the alert for a server that is down is about to fire for the
// one that is. Control: a query for a metric that is not there has none.
func TestAlertsAndDashboardOnARealGateway(t *testing.T) {
	t.Parallel()
	need(t, "prometheus")
	gw := serve(t, watched+`
listener "tcp" "dead" {
  address = [{{listen "dead"}}]
  mode    = "implicit"
  backend = backend.dead
}
backend "dead" {
  servers = [{{nowhere}}]
  send    = "proxy-v2"
  probe { interval = "1s" }
}
`)
	prom := prometheus(t, gw)
	// A rate needs two samples with something between them: go on until it is
	// seen.
	seen := func() bool {
		if err := sendOne(t, gw.addr("mx"), "dashboard@relay.example.com"); err != nil {
			t.Fatal(err)
		}
		return prom.ask(`sum(rate(sallyport_sessions_total{listener="mx",outcome="ok"}[1m])) > 0`) == 1
	}
	if !eventually(patience, seen) {
		t.Fatalf("Prometheus saw no sessions: %s", prom.said())
	}
	gw.reload("ok")

	text, err := os.ReadFile("../packaging/grafana/sallyport.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	// What a healthy gateway without an authority has nothing to show for.
	empty := map[string]bool{"Clients that broke a rule, by reason": true, "Sessions that reached no server": true, "Handshakes that fail": true, "Tries to have certificates issued, by result": true}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			query := regexp.MustCompile(`\$__\w+`).ReplaceAllString(target.Expr, "1m")
			query = regexp.MustCompile(`\$\w+`).ReplaceAllString(query, ".*")
			if !eventually(patience, func() bool { n := prom.ask(query); return n > 0 || n == 0 && empty[p.Title] }) {
				t.Errorf("panel %q: %d answers to %s", p.Title, prom.ask(query), query)
			}
		}
	}
	if n := prom.ask("sallyport_no_such_metric"); n != 0 {
		t.Errorf("control: %d answers to a query for nothing", n)
	}

	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
	}
	states := func() map[string]string {
		found := map[string]string{}
		prom.get("/api/v1/rules", &rules)
		for _, g := range rules.Data.Groups {
			for _, r := range g.Rules {
				found[r.Name] = r.Health + " " + r.State + r.LastError
			}
		}
		return found
	}
	want := func() bool {
		s := states()
		return s["SallyportBackendDown"] == "ok pending" && s["SallyportBackendAllDown"] == "ok pending" && s["SallyportDown"] == "ok inactive"
	}
	if !eventually(patience, want) {
		t.Errorf("the alerts are %v", states())
	}
	for name, state := range states() {
		if !strings.HasPrefix(state, "ok ") {
			t.Errorf("%s is %s", name, state)
		}
	}
}

// A prom is a Prometheus that scrapes one gateway.
type prom struct {
	*daemon
	addr string
}

// prometheus starts one, with the alerts that we ship.
func prometheus(t *testing.T, gw *gateway) *prom {
	t.Helper()
	alerts, err := filepath.Abs("../packaging/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(gw.dir, "prometheus.yml")
	text := fmt.Sprintf(`global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs: [{job_name: sallyport, static_configs: [{targets: [%q]}]}]
`, alerts, gw.admin)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &prom{addr: address()}
	if p.daemon, err = start("prometheus", "--config.file="+conf, "--storage.tsdb.path="+filepath.Join(gw.dir, "tsdb"), "--web.listen-address="+p.addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

// ask returns how many series answer a query; -1 when it is refused.
func (p *prom) ask(query string) int {
	var answer struct {
		Status string
		Data   struct{ Result []any }
	}
	p.get("/api/v1/query?query="+url.QueryEscape(query), &answer)
	if answer.Status != "success" {
		return -1
	}
	return len(answer.Data.Result)
}

func (p *prom) get(path string, answer any) {
	res, err := http.Get("http://" + p.addr + path)
	if err != nil {
		return // not up yet
	}
	defer res.Body.Close()
	json.NewDecoder(res.Body).Decode(answer)
}
