# Made by `sallyport import stunnel 03-sni.conf`. What could not be carried over is named beside the
#   block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

certificate "default" {
  cert_file = "/etc/stunnel/default.pem"
  key_file  = "/etc/stunnel/default.pem"
}

certificate "one" {
  cert_file = "/etc/stunnel/one.pem"
  key_file  = "/etc/stunnel/one.pem"
}

certificate "partners" {
  cert_file = "/etc/stunnel/partners.pem"
  key_file  = "/etc/stunnel/partners.key"
}

backend "one" {
  servers = ["one.internal:143"]
}

backend "partners" {
  servers = ["partners.internal:143"]
}

tls "virtual_2" {
  min_version = "1.3"

  client_auth {
    mode    = "require"
    ca_file = "/etc/stunnel/partners-ca.pem"
  }
}

backend "virtual" {
  servers = ["default.internal:143"]
}

# 03-sni.conf:13: [partners]: sni = virtual:*.partners.example.org: * stands for one label: name
#   deeper ones, too
# 03-sni.conf:16: [partners]: sni = nobody:x.example.org is not carried over: there is no listener
#   [nobody] to add a route to
# 03-sni.conf:17: [partners]: sni = virtual:* is not carried over: a route takes a name, or *.domain
#   for one label more
# 03-sni.conf:24: [partners]: TIMEOUTidle is not carried over: timeouts are those of the listener
# 03-sni.conf:32: [revoked]: CRLfile is not carried over: revoked certificates of clients are not
#   told from good ones
# 03-sni.conf:26: [revoked]: this service is not carried over: its sessions are not told apart,
#   because CRLfile would no longer guard it
# 03-sni.conf:48: [late]: sni is not carried over: an earlier route has late.partners.example.org
#   already
listener "imap" "virtual" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.default, certificate.one, certificate.partners]

  route {
    sni     = ["one.example.org"]
    backend = backend.one
  }

  route {
    sni     = ["*.partners.example.org", "partners.example.org", "a.partners.example.org"]
    tls     = tls.virtual_2
    backend = backend.partners
  }

  route {
    backend = backend.virtual
  }
}

tls "starttls" {
  client_auth {
    mode    = "require"
    ca_file = "/etc/stunnel/everybody.pem"
  }
}

tls "starttls_1" {
  min_version = "1.2"
}

# 03-sni.conf:38: protocol = imap: stunnel also takes TLS from the first byte on this port, after
#   200 ms of silence; here clients ask for it. If some do not, write mode = "auto"
# 03-sni.conf:45: [one-starttls]: connect: stunnel dials before TLS where protocol is set, so that
#   the server is that of [starttls]; to have it chosen by SNI write another backend into the route
listener "imap" "starttls" {
  address = ["0.0.0.0:143"]
  certs   = [certificate.default, certificate.one]
  tls     = tls.starttls

  route {
    sni     = ["one.example.org"]
    tls     = tls.starttls_1
    backend = backend.virtual
  }

  route {
    backend = backend.virtual
  }
}
