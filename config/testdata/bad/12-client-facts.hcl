certificate "mail" {
  names       = ["mx1.example.org"]
  self_signed = true
}
backend "both" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
  forward {
    xclient = true
  }
}
backend "other-protocol" {
  servers = ["192.0.2.11:25"]
  forward {
    id     = true
    webirc = "secret with spaces"
  }
}
listener "smtp" "mx" {
  address   = [":25"]
  cleartext = "allow"
  route {
    sni     = ["a.example.org"]
    backend = backend.both
  }
  route { backend = backend.other-protocol }
}
