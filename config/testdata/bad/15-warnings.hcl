certificate "mail" {
  names       = ["mx1.example.org"]
  self_signed = true
}
certificate "other" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "postfix" {
  servers = ["192.0.2.10:25"]
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
}
backend "chat" {
  servers = ["192.0.2.30:7001"]
}
listener "smtp" "mx" {
  address = [":25"]
  backend = backend.postfix
}
listener "smtp" "submissions" {
  address = [":465"]
  backend = backend.postfix
}
listener "imap" "imap" {
  address   = [":143"]
  cleartext = "allow"
  backend   = backend.dovecot
}
listener "imap" "imaps" {
  address = [":993"]
  backend = backend.dovecot
}
listener "imap" "imaps-other" { # shares no certificate with the accepted one
  address = ["127.0.0.2:1993"]
  mode    = "implicit"
  certs   = [certificate.other]
  opossum = "accepted"
  backend = backend.dovecot
}
listener "test" "chat" {
  address        = [":7001"]
  cleartext      = "allow"
  cleartext_auth = true
  options { text = "" }
  backend = backend.chat
}
