certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
log {
  level  = "verbose"
  format = "jsn"
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  balance = "roundrobin"
  send    = "proxy_v2"
}
listener "imap" "imap" {
  address   = [":143"]
  mode      = "implicitt"
  cleartext = "alow"
  backend   = backend.dovecot
}
listener "impa" "other" {
  address = [":993"]
  backend = backend.dovecot
}
listener "gopher" "hole" {
  address = [":70"]
  backend = backend.dovecot
}
