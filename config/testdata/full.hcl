# Every block and attribute that there is. What cannot be done yet is refused,
# and nothing else is.

variable "domain" {
  default     = "example.net"
  description = "the domain that mail is for"
}
variable "certs" {}

locals {
  mx    = "mx1.${var.domain}"
  ports = { clear = 25, implicit = 465 }
}

log {
  level  = "debug"
  format = "json"
}

admin {
  address = "127.0.0.1:9142"
  control = "/run/sallyport/control.sock"
}

state {
  path = "/var/lib/sallyport"
}

resolver {
  address  = "127.0.0.1:53"
  trust_ad = true
}

acme "letsencrypt" {
  directory  = "https://acme.example.org/directory"
  email      = "hostmaster@${var.domain}"
  accept_tos = true
  ca_file    = "${var.certs}/ca.pem"
  challenges = ["tls-alpn-01", "http-01"]
  manager    = "advanced"
  store "dir" {
    path        = "/var/lib/sallyport/acme"
    secret_file = "${var.certs}/mail.key"
  }
  external_account {
    key_id = "kid-1"
    hmac   = "c2VjcmV0"
  }
}
acme "private" {
  directory  = "https://ca.corp.example/acme"
  accept_tos = true
  manager    = "advanced"
  challenges = ["dns-01", "http-01"]
  profile    = "shortlived"
  store "dir" {
    path        = "/var/lib/sallyport/acme"
    secret_file = "${var.certs}/mail.key"
  }
  dns "rfc2136" {
    server        = "192.0.2.53:53"
    key_name      = "sallyport"
    key_algorithm = "hmac-sha512"
    key_secret    = "c2FsbHlwb3J0IHRlc3RzIHNpZ24gd2l0aCB0aGlzISE="
    zone          = "acme.example.net"
    ttl           = "30s"
    timeout       = "5m"
  }
}
acme "by-program" {
  directory  = "https://ca.corp.example/acme"
  accept_tos = true
  manager    = "advanced"
  store "dir" {
    path        = "/var/lib/sallyport/acme"
    secret_file = "${var.certs}/mail.key"
  }
  dns "exec" {
    command = ["/bin/sh", "/usr/local/lib/sallyport/dns-hook"]
  }
}

certificate "issued" {
  names     = [local.mx, "imap.${var.domain}"]
  acme      = acme.letsencrypt
  bootstrap = "self_signed"
  key       = "rollover"
  key_type  = "p384"
}
certificate "wildcard" {
  names = ["*.${var.domain}", var.domain]
  acme  = acme.private
}
certificate "legacy" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/mail.key"
}
certificate "dev" {
  names       = ["localhost", "127.0.0.1"]
  self_signed = true
}

tls "partners" {
  min_version = "1.3"
  tickets     = "shared"
  records     = "compact"
  client_auth {
    mode    = "require"
    ca_file = "${var.certs}/ca.pem"
  }
}
tls "ancient" {
  min_version = "1.0"
}

policy "default" {
  handshake_timeout = "10s"
  idle_timeout      = "35m"
  stall_timeout     = "5m"
  keepalive         = "2m"
  drain_timeout     = "1h"
  downgrade         = "report"
  dialogue {
    timeout  = "30s"
    bytes    = "16KiB"
    commands = 50
  }
  limits {
    connections    = 20000
    pending        = 2000
    per_ip         = 1000
    pending_per_ip = 50
    rate_per_ip    = "20/s"
  }
}
policy "behind_lb" {
  downgrade = "refuse"
  proxy_protocol {
    from = ["10.0.0.0/8", "2001:db8::/32"]
  }
}

backend "postfix" {
  servers         = ["192.0.2.11:25", "192.0.2.12:25"]
  balance         = "least_conn"
  send            = "proxy-v2"
  connect_timeout = "2s"
  resolve         = "1m"
  max_connections = 500
  server "192.0.2.13:25" {
    weight          = 2
    max_connections = 100
  }
  server "unix:/run/postfix/smtpd" {
    backup = true
  }
  probe {
    interval = "30s"
  }
}
backend "submission" {
  servers = ["192.0.2.11:587"]
  forward {
    xclient = true
  }
}
backend "dovecot" {
  servers = ["imap.example.org:143"]
  balance = "source"
  send    = "proxy-v1"
}
backend "chat" {
  servers = ["192.0.2.41:6667"]
  forward {
    webirc = "secret"
  }
}
backend "directory" {
  servers = ["192.0.2.31:389"]
  send    = "proxy-v2"
  tls {
    mode            = "implicit"
    verify          = "ca"
    ca_file         = "${var.certs}/ca.pem"
    server_name     = "ldap.example.org"
    channel_binding = "pass"
  }
}

listener "web" "front" {
  address = [":443", ":80"]
}
listener "smtp" "mx" {
  address   = ["0.0.0.0:${local.ports.clear}", "[::]:${local.ports.clear}"]
  mode      = "starttls"
  cleartext = "allow"
  certs     = [certificate.dev, certificate.legacy]
  hostname  = local.mx
  options {
    strict_newlines = true
    greet_wait      = "3s"
  }
  backend = backend.postfix
}
listener "smtp" "submission" {
  address        = [":587"]
  cleartext_auth = false
  strict_sni     = true
  opossum        = "accepted"
  backend        = backend.submission
}
listener "imap" "imaps" {
  address = [":993"]
  policy  = policy.behind_lb
  route {
    sni     = ["*.corp.example"]
    tls     = tls.partners
    backend = backend.dovecot
  }
  route {
    backend = backend.dovecot
  }
}
listener "imap" "imap" {
  address        = [":143"]
  mode           = "auto"
  auto_wait      = "300ms"
  cleartext      = "allow"
  cleartext_auth = false
  opossum        = "accepted"
  tls            = tls.ancient
  backend        = backend.dovecot
}
listener "tcp" "any" {
  address = [":7443"]
  backend = backend.directory
}
listener "irc" "chat" {
  address = [":6667"]
  backend = backend.chat
}
listener "xmpp" "talk" {
  address = [":5222"]
  route {
    host    = ["chat.example.org"]
    backend = backend.directory
  }
}
