certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
tls "old" { min_version = "1.0" }
tls "older" { min_version = "1.1" }
backend "postfix" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
}
listener "smtp" "mx" {
  address   = [":25"]
  cleartext = "allow"
  tls       = tls.old
  backend   = backend.postfix
}
listener "smtp" "submission" {
  address = [":587"]
  tls     = tls.old
  backend = backend.postfix
}
listener "smtp" "submissions" {
  address = [":465"]
  opossum = "accepted"
  route {
    sni     = ["old.example.org"]
    tls     = tls.older
    backend = backend.postfix
  }
  route { backend = backend.postfix }
}
