# Exchange Server behind sallyport: TLS 1.3 and current cipher suites towards the
# world, Exchange's own TLS on the inside. README.md says what to set in Exchange.
#
#   sallyport check -c examples/exchange/sallyport.hcl -var exchange=ex1.corp.example.org
#
# Exchange understands neither PROXY nor XCLIENT, so that it sees every client as
# the gateway. It must grant nothing to the gateway's address, as README.md says:
# check warns: The backend does not learn who the client is

variable "domain" {
  default = "example.org"
}
variable "exchange" {
  default     = "ex1.corp.example.org"
  description = "the Exchange server, by the name that is in its certificate"
}

locals {
  mail = "mail.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics, /healthz, /readyz
}

certificate "mail" {
  # For a first try. In production, in place of these two lines:
  #   cert_file = "/etc/letsencrypt/live/mail.example.org/fullchain.pem"
  #   key_file  = "/etc/letsencrypt/live/mail.example.org/privkey.pem"
  names       = [local.mail]
  self_signed = true
}

# The receive connector "sallyport" of README.md: anonymous, and no relay.
backend "mx" {
  servers = ["${var.exchange}:2525"]

  tls {
    mode = "starttls" # ca_file = "…" where the company's own authority has signed
  }
}

# "Client Frontend". It demands TLS for passwords, and gets it.
backend "submission" {
  servers = ["${var.exchange}:587"]

  tls {
    mode = "starttls"
  }
}

backend "imap" {
  servers = ["${var.exchange}:993"]

  tls {
    mode = "implicit"
  }
}

backend "pop3" {
  servers = ["${var.exchange}:995"]

  tls {
    mode = "implicit"
  }
}

listener "smtp" "mx" {
  address   = [":25"]
  cleartext = "allow" # a public MX must not require TLS (RFC 3207, 4)
  hostname  = local.mail
  backend   = backend.mx

  options {
    strict_newlines = true # no SMTP smuggling past us
  }
}

listener "smtp" "submission" {
  address  = [":587"]
  hostname = local.mail
  backend  = backend.submission
}

listener "imap" "imaps" {
  address  = [":993"]
  hostname = local.mail
  backend  = backend.imap
}

listener "pop3" "pop3s" {
  address  = [":995"]
  hostname = local.mail
  backend  = backend.pop3
}
