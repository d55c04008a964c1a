# tls-alpn-01 only, by a listener that begins with TLS; nobody answers http-01.
acme "ca" { # http-01 is left out
  directory  = "https://ca.example.org/directory"
  accept_tos = true
}
acme "written" {
  directory  = "https://staging.example.org/directory"
  accept_tos = true
  challenges = ["http-01", "tls-alpn-01"]
}
certificate "a" {
  names = ["a.example.org"]
  acme  = acme.ca
}
certificate "b" {
  names = ["b.example.org"]
  acme  = acme.written
}
backend "echo" {
  servers = ["192.0.2.10:7"]
  send    = "proxy-v2"
}
listener "tcp" "echo" {
  address = [":443"]
  backend = backend.echo
}
