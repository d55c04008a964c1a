certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "raw" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
  tls {
    mode    = "starttls"
    verify  = "non"
    ca_file = "absent.pem"
  }
}
listener "tcp" "raw" {
  address = [":7443"]
  backend = backend.raw
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.raw
}
