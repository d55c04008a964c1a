package acme

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
)

// What docs/acme.md has an operator write into BIND and Knot lets the gateway
// publish, and do nothing else.
func TestDocumentedRights(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/acme.md")
	if err != nil {
		t.Fatal(err)
	}
	snippet := func(server string) string {
		m := regexp.MustCompile("(?s)\n" + server + ":\n\n```\n(.*?)```\n").FindSubmatch(text)
		if m == nil {
			t.Fatalf("nothing for %s", server)
		}
		return strings.Replace(string(m[1]), "…", tsigSecret, 1)
	}
	for _, server := range []string{"BIND", "Knot"} {
		t.Run(server, func(t *testing.T) {
			addr := loopback(t, "127.0.0.1")
			host, port, _ := net.SplitHostPort(addr)
			conf, argv := snippet(server), []string{}
			switch server {
			case "BIND":
				argv = []string{need(t, "named", "bind9"), "-g", "-n", "1", "-c", "CONF"}
				conf = strings.Replace(conf, "/var/lib/bind/", "", 1) + fmt.Sprintf(`
options {
	directory "DIR"; pid-file none; session-keyfile none; dnssec-validation no;
	listen-on port %s { %s; }; listen-on-v6 { none; }; recursion no; notify no;
};
controls { };
zone "acme.example.net" { type primary; file "acme.example.net"; };
`, port, host)
			case "Knot":
				argv = []string{need(t, "knotd", "knot"), "-c", "CONF"}
				conf = fmt.Sprintf(`
server:
  rundir: "DIR"
  listen: "%s@%s"
database:
  storage: "DIR/db"
  journal-db-max-size: 10M
template:
  - id: default
    storage: "DIR"
    file: "%%s"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
`, host, port) + conf + "  - domain: acme.example.net\n"
			}
			s := started(t, addr, conf, zoneFile, argv...)
			d := settings(s)
			if err := publish(t, d, "_acme-challenge.example.org", "value").Remove(t.Context()); err != nil {
				t.Error(err)
			}
			for _, other := range []string{"example.org", "mail.example.org", "_acme-challenge.mail.example.org", "_dmarc.example.org", "_acme-challenge.www.example.org"} {
				if _, err := d.Publish(t.Context(), other, "value"); err == nil {
					t.Errorf("%s can be written", other)
				}
			}
		})
	}
}
