certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
admin { address = "127.0.0.1:993" }
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "v4" {
  address = ["0.0.0.0:143"]
  backend = backend.dovecot
}
listener "imap" "v6" {
  address = ["[::]:143"] # another family: no collision
  backend = backend.dovecot
}
listener "imap" "v4-one" {
  address = ["192.0.2.1:143"]
  backend = backend.dovecot
}
listener "imap" "all" {
  address = [":993"]
  opossum = "accepted"
  backend = backend.dovecot
}
listener "test" "twice" {
  address = ["192.0.2.1:7001", "192.0.2.2:7001", "192.0.2.1:7001"]
  options { text = "" }
  backend = backend.dovecot
}
listener "test" "any-port" {
  address = ["127.0.0.1:0", "127.0.0.1:0"]
  mode    = "starttls"
  options { text = "" }
  backend = backend.dovecot
}
