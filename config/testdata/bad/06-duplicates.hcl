log { level = "info" }
log { format = "json" }
locals { a = 1 }
locals { a = 2 }
certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = ["192.0.2.20:143", "192.0.2.21:143", "192.0.2.20:143"]
  send    = "proxy-v2"
  server "192.0.2.21:143" {}
  server "192.0.2.22:143" {}
  server "192.0.2.22:143" {}
}
backend "dovecot" {
  servers = ["192.0.2.30:143"]
}
listener "imap" "mail" {
  address = [":143"]
  backend = backend.dovecot
}
listener "test" "mail" {
  address = [":7001"]
  options { text = "" }
  backend = backend.dovecot
}
policy "default" {
  limits { per_ip = 1 }
  limits { pending = 1 }
}
