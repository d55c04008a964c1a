# What nobody uses, and a hostname that no certificate has.

certificate "mail" {
  names       = ["mail.example.org"]
  self_signed = true
}
certificate "spare" {
  names       = ["spare.example.org"]
  self_signed = true
}
tls "partners" { min_version = "1.3" }
policy "strict" { idle_timeout = "5m" }
backend "dovecot" {
  servers = ["192.0.2.10:143"]
  send    = "proxy-v2"
}
backend "dovecot_old" {
  servers = ["192.0.2.11:143"]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address  = [":143"]
  certs    = [certificate.mail]
  hostname = "imap.example.org"
  backend  = backend.dovecot
}
