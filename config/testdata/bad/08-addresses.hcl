certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
admin { address = "9142" }
backend "dovecot" {
  servers = ["192.0.2.20"]
  send    = "proxy-v2"
}
backend "port" {
  servers = ["imap.example.org:imap"]
  send    = "proxy-v2"
}
backend "socket" {
  servers = ["unix:run/imap.sock"]
  send    = "proxy-v2"
}
backend "name" {
  servers = ["imap example.org:143"]
  send    = "proxy-v2"
}
backend "nothing" {
  send = "proxy-v2"
}
backend "empty" {
  servers = []
  send    = "proxy-v2"
}
listener "imap" "string" {
  address = ":143"
  backend = backend.dovecot
}
listener "imap" "ipv6" {
  address = ["::1:143"]
  backend = backend.dovecot
}
listener "imap" "port" {
  address = [":65536"]
  backend = backend.dovecot
}
listener "imap" "hostname" {
  address  = [":993"]
  hostname = "imap.example.org\r\n* BYE"
  backend  = backend.dovecot
}
