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
backend "unchecked" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
  tls {
    mode    = "starttls"
    verify  = "none"
    ca_file = "27-backend-tls.hcl"
  }
}
backend "nameless" {
  servers = ["192.0.2.21:143", "unix:/run/dovecot/imap"]
  send    = "proxy-v2"
  tls { mode = "implicit" }
}
backend "misnamed" {
  servers = ["192.0.2.22:143"]
  send    = "proxy-v2"
  tls {
    mode            = "plain"
    server_name     = "*.example.org"
    channel_binding = "keep"
  }
}
backend "modeless" {
  servers = ["192.0.2.23:143"]
  send    = "proxy-v2"
  tls { verify = "ca" }
}
listener "tcp" "raw" {
  address = [":7443"]
  backend = backend.raw
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.raw
}
