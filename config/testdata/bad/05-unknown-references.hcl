locals {
  servers = ["192.0.2.20:143"]
}
certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = local.server
  send    = "proxy-v2"
}
listener "imap" "attributes" {
  address  = [":143"]
  certs    = [certificate.mial]
  tls      = tls.partners
  policy   = polciy.default
  hostname = "imap.${var.domain}"
  backend  = backend.dovcot
}
listener "imap" "bare" {
  address  = ["127.0.0.2:993"]
  hostname = imap
  certs    = [cert.mail]
  backend  = dovecot
}
listener "imap" "indexed" {
  address = ["127.0.0.3:993"]
  backend = backend["postfix"]
}
