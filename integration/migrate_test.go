package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An errand is a client's command line, the same before and after a migration,
// and what it prints when it went well.
type errand struct {
	name string
	argv []string
	says string
}

func (v errand) works(t *testing.T) {
	t.Helper()
	client(t, "", v.argv...).ok(t).says(t, v.says)
}

// readErrand reads the subject of a user's first message by curl.
func readErrand(name, scheme string, port int, user, subject string) errand {
	return errand{name, []string{"curl", "-sS", "--ssl-reqd", "--cacert", lab.pki.ca, "--user", user + ":" + password,
		"--url", fmt.Sprintf("%s://localhost:%d/INBOX;MAILINDEX=1;SECTION=HEADER.FIELDS%%20(SUBJECT)", scheme, port)}, subject}
}

// sendErrand asks a server of SMTP inside TLS whether it would take mail.
func sendErrand(name string, port int, how string) errand {
	return errand{name, append(swaks(fmt.Sprint(port), "anything@raw.example.org", "127.0.0.1", how), "--quit-after", "RCPT"), "TLS started"}
}

// migrated writes a configuration of another program, runs the program on it
// and its clients' errands; ends it, sees that nobody answers any more, imports
// the configuration and runs the errands again, on the same ports, at the
// gateway. It returns what import wrote.
func migrated(t *testing.T, conf, text string, addr string, errands []errand, argv []string, settle func(hcl string) string) *gateway {
	t.Helper()
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := start(argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(before.stop)
	if err := reachable(before, addr); err != nil {
		t.Fatal(err)
	}
	for _, v := range errands {
		t.Run("before/"+v.name, v.works)
	}
	before.stop()
	if t.Failed() {
		t.Fatalf("%s does not serve its clients: %s", before.name, before.said())
	}
	// The control: it was that program who answered.
	if r := client(t, "", errands[0].argv...); r.code == 0 {
		t.Fatalf("%s has ended, and its clients are served: %s", before.name, r.out)
	}

	hcl := conf + ".hcl"
	imported := client(t, "", lab.binary, "import", conf, "-o", hcl).ok(t)
	client(t, "", lab.binary, "check", "-c", hcl).ok(t)
	result, err := os.ReadFile(hcl)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("import said:\n%s\nand wrote:\n%s", imported.out, result)
		}
	})
	gw := serve(t, settle(string(result)))
	for _, v := range errands {
		t.Run("after/"+v.name, v.works)
	}
	return gw
}

func asImported(hcl string) string { return hcl }

// labDir makes a directory of the test's own that servers can enter.
func labDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(lab.dir, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pemOf puts a certificate and its key into one file, as stunnel has it. The
// name is not one of those that serve has blocks for.
func pemOf(t *testing.T, path, name string) {
	t.Helper()
	var both []byte
	for _, ext := range []string{".crt", ".key"} {
		text, err := os.ReadFile(lab.pki.file(name + ext))
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	if err := os.WriteFile(path, both, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Clients of a stunnel before Postfix and Dovecot are served by a gateway that
// runs on its imported configuration: the same command lines, the same ports,
// STARTTLS and TLS first, and PROXY v1.
// Control: between the two nobody answers.
func TestMigrateStunnel(t *testing.T) {
	t.Parallel()
	need(t, "stunnel4", "curl", "swaks")
	p, d := thePostfix(t), theDovecot(t)
	user := fresh("migrant")
	d.deliver(t, user, "seen through stunnel")

	dir := labDir(t, "stunnel")
	pemOf(t, filepath.Join(dir, "stunnel.pem"), "localhost")
	imap, imaps, smtp, smtps, proxied := freePort(), freePort(), freePort(), freePort(), freePort()
	text := fmt.Sprintf(`; A host that speaks for old servers.
foreground = yes
pid =
syslog = no
cert = %[1]s/stunnel.pem
sslVersionMin = TLSv1.2
TIMEOUTidle = 600

[imap]
accept = 127.0.0.1:%[2]d
connect = %[7]s
protocol = imap

[imaps]
accept = 127.0.0.1:%[3]d
connect = %[7]s

[smtp]
accept = 127.0.0.1:%[4]d
connect = %[8]s
protocol = smtp

[smtps]
accept = 127.0.0.1:%[5]d
connect = %[8]s
ciphers = HIGH:!aNULL

[proxied]
accept = 127.0.0.1:%[6]d
connect = %[9]s
protocol = proxy
`, dir, imap, imaps, smtp, smtps, proxied, d.imap, p.addr("mx"), p.addr("proxy"))
	conf := filepath.Join(dir, "stunnel.conf")
	errands := []errand{
		readErrand("imap", "imap", imap, user, "seen through stunnel"),
		readErrand("imaps", "imaps", imaps, user, "seen through stunnel"),
		sendErrand("smtp", smtp, "-tls"),
		sendErrand("smtps", smtps, "-tlsc"),
		sendErrand("proxied", proxied, "-tlsc"),
	}
	gw := migrated(t, conf, text, address127(imap), errands, []string{"stunnel4", conf}, asImported)
	gw.session("smtp").is(t, "protocol", "smtp", "security", "encrypted")
}

// Clients of an nginx that proxies mail and TCP are served by a gateway that
// runs on its imported configuration, once the variable that stands for
// auth_http is set.
// Control: between the two nobody answers.
func TestMigrateNginx(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "curl")
	const modules = "/usr/lib/nginx/modules/"
	for _, module := range []string{"ngx_mail_module.so", "ngx_stream_module.so"} {
		if _, err := os.Stat(modules + module); err != nil {
			lacking(t, "nginx has no %s: apt-get install %s", module, debian["nginx"])
		}
	}
	d := theDovecot(t)
	user := fresh("migrant")
	d.deliver(t, user, "seen through nginx")
	host, port, _ := net.SplitHostPort(d.imap)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Auth-Status", "OK")
		w.Header().Set("Auth-Server", host)
		w.Header().Set("Auth-Port", port)
	}))
	t.Cleanup(auth.Close)

	dir := labDir(t, "nginx")
	pemOf(t, filepath.Join(dir, "nginx.pem"), "localhost")
	imap, imaps, stream := freePort(), freePort(), freePort()
	text := fmt.Sprintf(`
load_module %[2]sngx_mail_module.so;
load_module %[2]sngx_stream_module.so;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log info;
events { }
mail {
    server_name mail.example.org;
    auth_http %[3]s/auth;
    ssl_certificate %[4]s;
    ssl_certificate_key %[5]s;
    ssl_protocols TLSv1.2 TLSv1.3;
    server {
        listen 127.0.0.1:%[6]d;
        protocol imap;
        starttls only;
    }
    server {
        listen 127.0.0.1:%[7]d ssl;
        protocol imap;
    }
}
stream {
    %[10]s mailboxes {
        least_conn;
        server %[9]s weight=2;
    }
    server {
        listen 127.0.0.1:%[8]d ssl;
        proxy_pass mailboxes;
        proxy_timeout 35m;
        ssl_certificate %[4]s;
        ssl_certificate_key %[5]s;
    }
}
`, dir, modules, strings.TrimPrefix(auth.URL, "http://"), filepath.Join(dir, "nginx.pem"), filepath.Join(dir, "nginx.pem"), imap, imaps, stream, d.imap, "up"+"stream")
	conf := filepath.Join(dir, "nginx.conf")
	errands := []errand{
		readErrand("imap", "imap", imap, user, "seen through nginx"),
		readErrand("imaps", "imaps", imaps, user, "seen through nginx"),
		readErrand("stream", "imaps", stream, user, "seen through nginx"),
	}
	gw := migrated(t, conf, text, address127(imap), errands, []string{"nginx", "-c", conf, "-g", "daemon off;"}, func(hcl string) string {
		if !strings.Contains(hcl, `"192.0.2.1:143"`) {
			t.Error("nothing stands for auth_http")
		}
		return strings.Replace(hcl, `"192.0.2.1:143"`, quote(d.imap), 1)
	})
	gw.session(fmt.Sprintf("imap_%d", imap)).is(t, "protocol", "imap", "security", "encrypted")
}

func address127(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
