certificate "mx1.example.org" {
  names       = ["mx1.example.org"]
  self_signed = true
}
backend "1st" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
backend "ok" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
  server "nowhere" {}
}
listener "imap" "with space" {
  address = [":143"]
  backend = backend.ok
}
