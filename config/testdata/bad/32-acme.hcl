# What an authority cannot do as it is configured, and what it needs.
variable "certs" {}
acme "clear" {
  directory  = "http://ca.example.org/directory"
  email      = "mailto:hostmaster@example.org"
  accept_tos = true
}
acme "terms" { directory = "https://ca.example.org/directory" }
acme "disagreed" {
  directory  = "https://ca.example.org/directory"
  accept_tos = false
}
acme "simple" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  challenges = ["dns-01"]
  profile    = "shortlived"
}
acme "simple-dns" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  dns "exec" { command = ["/bin/sh"] }
}
acme "no-dns" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  challenges = ["http-01", "dns-01", "http-01"]
}
acme "unused-dns" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  challenges = ["http-01"]
  external_account {
    key_id = "kid-1"
    hmac   = "s3cret, and no base64"
  }
  dns "exec" { command = ["dns-hook", "--secret=no"] }
}
acme "half" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "rfc2136" { command = ["/bin/sh"] }
}
acme "mixed" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "exec" {
    server        = "192.0.2.53:53"
    key_name      = "sallyport"
    key_algorithm = "hmac-sha256"
    key_secret    = "s3cret"
    zone          = "example.org"
    ttl           = "1m"
    timeout       = "61m"
  }
}
acme "algorithm" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "rfc2136" {
    server        = "unix:/run/dns"
    key_name      = "sallyport"
    key_algorithm = "hmac-sha265"
    key_secret    = "s3cret"
  }
}
acme "secret" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "rfc2136" {
    server     = "192.0.2.53:53"
    key_name   = "sallyport"
    key_secret = "s3cret"
    ttl        = "1500ms"
  }
}
acme "zone" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "rfc2136" {
    server     = "192.0.2.53:53"
    key_name   = "sallyport"
    key_secret = "c2FsbHlwb3J0IHRlc3RzIHNpZ24gd2l0aCB0aGlzISE="
    zone       = "example..org"
  }
}
acme "program" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "exec" { command = ["${var.certs}/mail.key"] }
}
acme "nsupdate" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  dns "nsupdate" {}
}
acme "by-dns" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
  manager    = "advanced"
  dns "exec" { command = ["/bin/sh"] }
}
acme "by-web" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
}
certificate "wildcard" {
  names = ["example.org", "*.example.org"]
  acme  = acme.by-web
}
certificate "address" {
  names = ["mail.example.org", "192.0.2.1"]
  acme  = acme.by-web
}
certificate "dns-address" {
  names    = ["*.example.org", "2001:db8::1"]
  acme     = acme.by-dns
  key_type = "ed25519"
}
certificate "own" {
  names       = ["own.example.org"]
  self_signed = true
}
backend "postfix" {
  servers = ["192.0.2.10:25"]
  send    = "proxy-v2"
}
listener "smtp" "mx" {
  address = [":25"]
  backend = backend.postfix
}
