certificate "mail" {
  names       = ["mx.example.org"]
  self_signed = true
}
tls "partners" {
  client_auth {
    mode    = "require"
    ca_file = "ca.pem"
  }
}
backend "postfix" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
}
listener "smtp" "partners" {
  address   = [":2525"]
  mode      = "starttls"
  cleartext = "allow"
  tls       = tls.partners
  backend   = backend.postfix
}
listener "smtp" "named" {
  address   = [":2526"]
  mode      = "starttls"
  cleartext = "allow"
  route {
    sni     = ["mx.example.org"]
    backend = backend.postfix
  }
}
