# Certificates of an authority, proved on the gateway's own listener.
state { path = "STATE" }
acme "ca" {
  directory  = "https://ca.example.org/directory"
  email      = "hostmaster@example.org"
  accept_tos = true
}
acme "advanced" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  store "dir" { path = "other" }
}
certificate "mail" {
  names = ["mx.example.org", "imap.example.org"]
  acme  = acme.ca
}
certificate "one" {
  names     = ["One.example.org"]
  acme      = acme.ca
  bootstrap = "self_signed"
  key       = "rollover"
}
certificate "all" {
  names    = ["a.example.org", "b.example.org"]
  acme     = acme.advanced
  key_type = "p384"
}
backend "mail" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
}
listener "web" "front" {
  address = [":443", ":80"]
}
listener "smtp" "submission" {
  address  = [":587"]
  hostname = "mx.example.org"
  opossum  = "accepted"
  backend  = backend.mail
}
listener "smtp" "submissions" {
  address  = [":465"]
  hostname = "imap.example.org"
  backend  = backend.mail
}
