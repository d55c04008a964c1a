# Nobody would answer the authority: STARTTLS comes too late for tls-alpn-01.
acme "ca" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
}
acme "http" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  challenges = ["http-01"]
}
certificate "mx" {
  names = ["mx.example.org"]
  acme  = acme.ca
}
certificate "other" {
  names = ["other.example.org"]
  acme  = acme.http
}
backend "mail" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
}
listener "smtp" "submission" {
  address = [":587"]
  backend = backend.mail
}
