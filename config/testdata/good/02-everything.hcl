# Every attribute that the gateway knows, none with its default.
variable "certs" {}
log {
  level  = "warn"
  format = "json"
}
admin {
  address = "127.0.0.1:9142"
  control = "/run/sallyport/control.sock"
}
state { path = "/srv/sallyport" }
resolver { address = "192.0.2.53:53" }
certificate "mail" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/mail.key"
}
certificate "other" {
  cert_file = "${var.certs}/other.crt"
  key_file  = "${var.certs}/other.key"
}
tls "partners" {
  min_version = "1.3"
  client_auth {
    mode    = "require"
    ca_file = "${var.certs}/ca.pem"
  }
}
tls "asked" {
  client_auth {
    mode    = "request"
    ca_file = "${var.certs}/ca.pem"
  }
}
policy "default" {
  handshake_timeout = "1s"
  idle_timeout      = "2s"
  stall_timeout     = "3s"
  keepalive         = "4s"
  drain_timeout     = "5s"
  dialogue {
    timeout  = "6s"
    bytes    = "7KiB"
    commands = 8
  }
  limits {
    connections    = 9
    pending        = 10
    per_ip         = 11
    pending_per_ip = 12
    rate_per_ip    = "30/m"
  }
}
policy "inherits" {
  stall_timeout = "33s"
  dialogue {
    bytes = "77B"
  }
}
policy "unlimited" {
  idle_timeout = "none"
  keepalive    = "none"
  limits {
    connections    = "none"
    pending        = "none"
    per_ip         = "none"
    pending_per_ip = "none"
    rate_per_ip    = "none"
  }
}
policy "behind_lb" {
  stall_timeout = "34s"
  proxy_protocol { from = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.5", "::ffff:192.0.2.0/120"] }
}
backend "postfix" {
  servers         = ["192.0.2.10:25", "[2001:db8::10]:25", "mail.example.org:25", "unix:/run/postfix/smtpd"]
  send            = "proxy-v2"
  connect_timeout = "2s"
  resolve         = "3s"
  balance         = "least_conn"
  max_connections = 500
  server "192.0.2.13:25" {
    weight          = 3
    max_connections = 100
  }
  server "192.0.2.14:25" { backup = true }
  probe { interval = "4s" }
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  forward { id = true }
  probe {}
}
backend "xclient" {
  servers = ["192.0.2.11:25"]
  forward { xclient = true }
}
backend "webirc" {
  servers = ["192.0.2.30:7001"]
  forward { webirc = trimspace(" secret ") }
}
backend "proxied" {
  servers         = ["imap.example.org:143"]
  balance         = "source"
  send            = "proxy-v1"
  max_connections = "none"
  tls {
    mode            = "starttls"
    ca_file         = "${var.certs}/ca.pem"
    server_name     = "imap1.example.org"
    channel_binding = "pass"
  }
}
backend "system" {
  servers = ["ldap.example.org:636"]
  balance = "round_robin"
  send    = "proxy-v2"
  tls { mode = "implicit" }
}
backend "clear" {
  servers = ["ldap.example.org:389"]
  send    = "proxy-v2"
  tls { mode = "off" }
}
listener "smtp" "mx" {
  address        = ["0.0.0.0:25", "[::]:25"]
  mode           = "starttls"
  cleartext      = "allow"
  cleartext_auth = false
  certs          = [certificate.other, certificate.mail]
  hostname       = "mail.example.org" # and yet the default is the first of certs
  strict_sni     = true
  tls            = tls.asked
  policy         = policy.inherits
  options {
    strict_newlines = true
    greet_wait      = "3s"
  }
  backend = backend.postfix
}
listener "smtp" "submissions" {
  address = ["192.0.2.1:465"]
  opossum = "accepted"
  policy  = policy.unlimited
  backend = backend.xclient
}
listener "imap" "imap" {
  address = [":143"]
  opossum = "accepted"
  backend = backend.dovecot
}
listener "imap" "imaps" {
  address = [":993"]
  route {
    sni     = ["*.Partners.example.org", "partners.example.org"]
    tls     = tls.partners
    backend = backend.dovecot
  }
  route { backend = backend.dovecot }
}
listener "imap" "balanced" {
  address = ["127.0.0.2:1143"]
  mode    = "starttls"
  policy  = policy.behind_lb
  opossum = "accepted"
  backend = backend.proxied
}
listener "xmpp" "talk" {
  address   = [":5222"]
  cleartext = "allow" # a session without TLS names its host, too
  route {
    host    = ["Example.org", "*.example.org"]
    tls     = tls.asked
    backend = backend.clear
  }
  route {
    host    = ["example.net"]
    backend = backend.system
  }
}
listener "tcp" "raw" {
  address = [":7443"]
  route {
    sni     = ["secure.example.org"]
    backend = backend.system
  }
  route { backend = backend.clear }
}
listener "test" "options" {
  address = ["127.0.0.1:0"]
  mode    = "starttls"
  options {
    text   = "a text"
    flag   = true
    number = 7
    wait   = "1m30s"
    words  = ["one", "two"]
  }
  backend = backend.webirc
}
