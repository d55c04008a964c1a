# The same as 04-syntax.hcl.json.
variable "certs" {}
variable "domain" { default = "example.org" }
locals {
  mx = "mx1.${var.domain}"
}
log { format = "json" }
certificate "mail" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/mail.key"
}
certificate "other" {
  names       = [local.mx]
  self_signed = true
}
policy "strict" {
  idle_timeout = "5m"
  dialogue { commands = 5 }
  limits { per_ip = 2 }
}
backend "postfix" {
  servers = ["192.0.2.10:25"]
  server "192.0.2.11:25" {}
  forward { xclient = true }
  probe { interval = "5s" }
}
listener "smtp" "mx" {
  address   = [":25"]
  cleartext = "allow"
  certs     = [certificate.other, certificate.mail]
  policy    = policy.strict
  options { strict_newlines = true }
  route {
    sni     = ["*.${var.domain}"]
    backend = backend.postfix
  }
  route { backend = backend.postfix }
}
listener "smtp" "submissions" {
  address = [":465"]
  certs   = certificate.mail == certificate.other ? [certificate.other] : [certificate.mail]
  opossum = "accepted"
  backend = backend.postfix
}
