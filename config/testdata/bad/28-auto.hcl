certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
policy "quick" {
  dialogue { timeout = "400ms" }
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "tcp" "raw" {
  address = [":7443"]
  mode    = "auto"
  backend = backend.dovecot
}
listener "telnet" "console" {
  address = [":23"]
  mode    = "auto"
  backend = backend.dovecot
}
listener "mysql" "database" {
  address = [":3306"]
  mode    = "auto"
  backend = backend.dovecot
}
listener "test" "client-first" {
  address   = [":7001"]
  mode      = "auto"
  auto_wait = "1s"
  options { text = "" }
  backend = backend.dovecot
}
listener "imap" "hasty" {
  address   = ["127.0.0.2:143"]
  mode      = "auto"
  auto_wait = "49ms"
  opossum   = "accepted"
  backend   = backend.dovecot
}
listener "imap" "late" {
  address   = ["127.0.0.3:143"]
  mode      = "auto"
  auto_wait = "11s"
  opossum   = "accepted"
  backend   = backend.dovecot
}
listener "imap" "out-of-time" {
  address   = ["127.0.0.4:143"]
  mode      = "auto"
  auto_wait = "400ms"
  opossum   = "accepted"
  policy    = policy.quick
  backend   = backend.dovecot
}
listener "imap" "imaps" {
  address   = [":993"]
  auto_wait = "1s"
  opossum   = "accepted"
  backend   = backend.dovecot
}
