backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.dovecot
}
listener "imap" "none" {
  address = ["127.0.0.2:993"]
  certs   = []
  backend = backend.dovecot
}
