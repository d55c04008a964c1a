# What is worse than the default, and is done as it is spelled out.
variable "certs" {}
certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
certificate "other" {
  names       = ["other.example.org"]
  self_signed = true
}
tls "old" {
  min_version = "1.0"
}
tls "older" {
  min_version = "1.1"
}
policy "anybody" {
  proxy_protocol { from = ["0.0.0.0/0", "::/0"] }
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
  tls {
    mode   = "implicit"
    verify = "none"
  }
}
backend "socket" {
  servers = ["unix:/run/dovecot/imap"]
  send    = "proxy-v2"
  tls {
    mode        = "starttls"
    verify      = "none"
    server_name = "imap.example.org" # the SNI, all the same
  }
}
listener "imap" "auto" {
  address        = ["127.0.0.1:143"]
  mode           = "auto"
  auto_wait      = "1s"
  cleartext      = "allow"
  cleartext_auth = false
  certs          = [certificate.mail]
  policy         = policy.anybody
  tls            = tls.old
  backend        = backend.dovecot
}
listener "imap" "accepted" {
  address = ["127.0.0.2:1143"]
  mode    = "auto"
  certs   = [certificate.other]
  opossum = "accepted"
  backend = backend.socket
}
listener "imap" "opportunistic" {
  address        = ["127.0.0.3:143"]
  cleartext      = "allow"
  cleartext_auth = false
  certs          = [certificate.other]
  route {
    sni     = ["*.example.org"]
    tls     = tls.older
    backend = backend.dovecot
  }
  route { backend = backend.socket }
}
