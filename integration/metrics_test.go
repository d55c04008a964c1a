package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metric returns the value of the first sample of a name whose labels hold all
// the pairs, and 0 when there is none.
func (g *gateway) metric(name string, pairs ...string) float64 {
	_, page, _ := g.fetch("/metrics")
	for line := range strings.Lines(page) {
		labels, ok := strings.CutPrefix(line, name)
		if !ok || labels[0] != '{' && labels[0] != ' ' {
			continue
		}
		all := true
		for _, pair := range pairs {
			all = all && strings.Contains(labels, pair)
		}
		if fields := strings.Fields(line); all {
			value, _ := strconv.ParseFloat(fields[len(fields)-1], 64)
			return value
		}
	}
	return 0
}

// documented are the metrics whose names users rely on.
var documented = []string{
	"sallyport_sessions_total", "sallyport_sessions_active", "sallyport_handshakes_total", "sallyport_handshake_seconds_count",
	"sallyport_dialogue_rejected_total", "sallyport_bytes_total", "sallyport_certificate_not_after_seconds", "sallyport_backend_up",
	"sallyport_config_reloads_total", "sallyport_build_info",
}

const watched = mx + `
listener "imap" "imap" {
  address = [{{listen "imap"}}]
  mode    = "starttls"
  backend = backend.watched
}
backend "watched" {
  servers = [{{dovecot "imap"}}]
  probe { interval = "1s" }
}
`

// The metrics page has every documented name, its figures are those of the
// sessions that were, promtool finds nothing wrong with it, and a real
// Prometheus scrapes it. Control: before the sessions the figures are 0.
func TestMetrics(t *testing.T) {
	t.Parallel()
	gw := serve(t, watched)
	sessions := func() float64 {
		return gw.metric("sallyport_sessions_total", `listener="mx"`, `protocol="smtp"`, `security="encrypted"`, `outcome="ok"`)
	}
	rejected := func() float64 {
		return gw.metric("sallyport_dialogue_rejected_total", `listener="mx"`, `reason="injection"`)
	}
	if sessions() != 0 || rejected() != 0 || gw.metric("sallyport_bytes_total", `listener="mx"`) != 0 {
		t.Error("control: figures before there was anything to count")
	}
	for range 3 {
		if err := sendOne(t, gw.addr("mx"), "count@relay.example.com"); err != nil {
			t.Fatal(err)
		}
	}
	dialects[0].inject(t, gw.addr("mx"), 0, "STARTTLS\r\nNOOP\r\n")
	open := dial(t, loopback(), gw.addr("imap"))
	open.imapTLS(lab.pki.client("localhost"))
	open.imapOK("NOOP")
	gw.reload("ok")
	for what, want := range map[string]func() bool{
		"3 sessions":      func() bool { return sessions() == 3 },
		"1 rejection":     func() bool { return rejected() == 1 },
		"1 active":        func() bool { return gw.metric("sallyport_sessions_active", `listener="imap"`) == 1 },
		"none active":     func() bool { return gw.metric("sallyport_sessions_active", `listener="mx"`) == 0 },
		"handshakes":      func() bool { return gw.metric("sallyport_handshakes_total", `listener="mx"`, `version="TLSv1.3"`) == 3 },
		"bytes in":        func() bool { return gw.metric("sallyport_bytes_total", `listener="mx"`, `direction="in"`) > 0 },
		"bytes out":       func() bool { return gw.metric("sallyport_bytes_total", `listener="mx"`, `direction="out"`) > 0 },
		"a backend is up": func() bool { return gw.metric("sallyport_backend_up", `backend="watched"`) == 1 },
		"build info":      func() bool { return gw.metric("sallyport_build_info") == 1 },
		"expiry": func() bool {
			at := time.Unix(int64(gw.metric("sallyport_certificate_not_after_seconds", `name="localhost"`)), 0)
			return at.Equal(lab.pki.notAfter(t, "localhost"))
		},
	} {
		if !eventually(patience, want) {
			t.Errorf("the metrics never showed: %s", what)
		}
	}
	_, page, err := gw.fetch("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range documented {
		if !strings.Contains(page, "\n"+name+"{") && !strings.Contains(page, "\n"+name+" ") {
			t.Errorf("%s is not on the metrics page", name)
		}
	}
	if strings.Contains(page, "127.16.") {
		t.Error("a client's address is a label")
	}
	client(t, page, "promtool", "check", "metrics").ok(t)
	t.Run("prometheus", func(t *testing.T) { scrape(t, gw) })
}

// scrape has a Prometheus look at the gateway until it knows of the sessions.
func scrape(t *testing.T, gw *gateway) {
	need(t, "prometheus")
	conf := filepath.Join(gw.dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 500ms}\nscrape_configs: [{job_name: sallyport, static_configs: [{targets: ['%s']}]}]\n", gw.admin)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	addr := address()
	d, err := start("prometheus", "--config.file="+conf, "--storage.tsdb.path="+filepath.Join(gw.dir, "tsdb"), "--web.listen-address="+addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	query := func(q string) string {
		res, err := http.Get("http://" + addr + "/api/v1/query?query=" + url.QueryEscape(q))
		if err != nil {
			return ""
		}
		defer res.Body.Close()
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if json.NewDecoder(res.Body).Decode(&answer) != nil || len(answer.Data.Result) != 1 {
			return ""
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1])
	}
	if !eventually(patience, func() bool { return query(`sum(sallyport_sessions_total{listener="mx",outcome="ok"})`) == "3" }) {
		t.Errorf("Prometheus does not know of the sessions: %s", d.said())
	}
	if up := query(`up{job="sallyport"}`); up != "1" {
		t.Errorf("up is %q", up)
	}
}

// /healthz is 200 while the process works and /readyz while it can serve;
// neither says more than that to who may not write: other methods are refused.
// Control: TestDrain sees /readyz fail.
func TestHealth(t *testing.T) {
	t.Parallel()
	gw := serve(t, mx)
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if status := gw.get(path); status != 200 {
			t.Errorf("GET %s: %d", path, status)
		}
		res, err := http.Post("http://"+gw.admin+path, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, res.StatusCode)
		}
	}
	if status := gw.get("/debug/pprof/"); status != 404 {
		t.Errorf("GET /debug/pprof/: %d", status)
	}
}
