# Mail for one domain: sallyport holds the certificate and speaks TLS with the
# world; Postfix and Dovecot behind it speak cleartext.
#
#   sallyport check -c examples/mail/sallyport.hcl
#   sallyport run   -c examples/mail/sallyport.hcl -var domain=example.org
#
# README.md beside this file says what to change in Postfix and Dovecot.

variable "domain" {
  default = "example.org"
}
variable "postfix" {
  default     = "127.0.0.1"
  description = "where Postfix listens, in cleartext, for sallyport alone"
}
variable "dovecot" {
  default     = "127.0.0.1"
  description = "where Dovecot listens, in cleartext, for sallyport alone"
}

locals {
  mx   = "mx1.${var.domain}"
  imap = "imap.${var.domain}"
}

log {
  format = "json"
}

admin {
  address = "127.0.0.1:9142" # /metrics, /healthz, /readyz
}

certificate "mail" {
  # For a first try. In production, in place of these two lines:
  #   cert_file = "/etc/letsencrypt/live/mx1.example.org/fullchain.pem"
  #   key_file  = "/etc/letsencrypt/live/mx1.example.org/privkey.pem"
  names       = [local.mx, local.imap]
  self_signed = true
}

policy "default" {
  limits {
    per_ip = 200
  }
}

# Mail from other servers. Postfix: smtpd_upstream_proxy_protocol = haproxy.
backend "mx" {
  servers = ["${var.postfix}:10025"]
  send    = "proxy-v2"

  probe {
    interval = "30s"
  }
}

# Mail from our own users. Postfix: smtpd_authorized_xclient_hosts.
backend "submission" {
  servers = ["${var.postfix}:10587"]

  forward {
    xclient = true
  }
}

# Dovecot: haproxy = yes in the inet_listener, haproxy_trusted_networks.
backend "dovecot" {
  servers = ["${var.dovecot}:10143"]
  send    = "proxy-v2"

  probe {
    interval = "30s"
  }
}

listener "smtp" "mx" {
  address   = ["0.0.0.0:25", "[::]:25"]
  cleartext = "allow" # a public MX must not require TLS (RFC 3207, 4)
  hostname  = local.mx
  backend   = backend.mx

  options {
    strict_newlines = true # no SMTP smuggling past us
  }
}

listener "smtp" "submission" {
  address  = [":587"]
  hostname = local.mx
  backend  = backend.submission
}

# Clients expect one name on both kinds of port, so both have one certificate.
# A name and certificate of its own for 465 and 993 would end what Opossum needs.
listener "smtp" "submissions" {
  address  = [":465"]
  hostname = local.mx
  opossum  = "accepted"
  backend  = backend.submission
}

listener "imap" "imap" {
  address  = [":143"]
  hostname = local.imap
  backend  = backend.dovecot
}

listener "imap" "imaps" {
  address  = [":993"]
  hostname = local.imap
  opossum  = "accepted"
  backend  = backend.dovecot
}
