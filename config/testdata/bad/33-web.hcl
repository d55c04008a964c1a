# What a listener of the gateway's own pages has no use for.
certificate "a" {
  names       = ["mx.example.org"]
  self_signed = true
  bootstrap   = "self_signed"
  key         = "reuse"
  key_type    = "p384"
}
tls "ancient" { min_version = "1.0" }
backend "mail" { servers = ["192.0.2.10:25"] }
listener "web" "front" {
  address        = [":443", ":80"]
  mode           = "implicit"
  cleartext      = "refuse"
  cleartext_auth = true
  auto_wait      = "1s"
  opossum        = "accepted"
  backend        = backend.mail
  tls            = tls.ancient
}
listener "web" "routed" {
  address = [":8080"]
  route { backend = backend.mail }
  options { redirect = true }
}
