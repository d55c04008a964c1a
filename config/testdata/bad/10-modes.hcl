certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "unknown-port" {
  address = ["127.0.0.1:1143"]
  backend = backend.dovecot
}
listener "imap" "both" {
  address = ["127.0.0.2:143", "127.0.0.2:993"]
  backend = backend.dovecot
}
listener "imap" "cleartext" {
  address        = ["127.0.0.3:993"]
  cleartext      = "allow"
  cleartext_auth = false
  backend        = backend.dovecot
}
listener "imap" "unusual" {
  address = ["127.0.0.4:993"]
  mode    = "starttls"
  opossum = "accepted"
  backend = backend.dovecot
}
listener "tcp" "without-words" {
  address = ["127.0.0.5:7443"]
  mode    = "starttls"
  backend = backend.dovecot
}
listener "tcp" "without-options" {
  address = ["127.0.0.6:7443"]
  options {}
  backend = backend.dovecot
}
listener "tcp" "clear" {
  address   = ["127.0.0.7:7443"]
  cleartext = "allow"
  backend   = backend.dovecot
}
