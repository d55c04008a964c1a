certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers      = ["192.0.2.20:143"]
  send         = "proxy-v2"
  conect_timeout = "5s"
  idle_timeout = "35m"
}
backends "postfix" {}
listener "imap" "imap" {
  adress  = [":143"]
  backend = backend.dovecot
  colour  = "green"
  polcy   = policy.default
  log {
    level = "debug"
  }
}
locals "x" { a = 1 }
listener "imap" { address = [":993"] }
