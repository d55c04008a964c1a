certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
resolver { address = "unix:/run/dns" }
policy "names" {
  proxy_protocol { from = ["lb.example.org"] }
}
policy "bits" {
  proxy_protocol { from = ["10.0.0.1/8"] }
}
policy "nobody" {
  proxy_protocol { from = [] }
}
policy "nothing" {
  proxy_protocol {}
}
policy "everybody" {
  proxy_protocol { from = ["::/0"] }
}
backend "postfix" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v3"
  server "192.0.2.11:25" {
    weight          = 0
    max_connections = 0
  }
}
listener "smtp" "mx" {
  address   = [":25"]
  cleartext = "allow"
  policy    = policy.everybody
  backend   = backend.postfix
}
