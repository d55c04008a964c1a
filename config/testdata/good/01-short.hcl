# The least that can be written; everything else is a default.
certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.dovecot
}
