# Chat behind sallyport: STARTTLS on 6667, implicit TLS on 6697, for an ngIRCd
# in cleartext.
#
#   sallyport check --strict -c examples/irc/sallyport.hcl
#   sallyport run -c examples/irc/sallyport.hcl -var domain=example.org

variable "domain" {
  default = "example.org"
}
variable "ircd" {
  default     = "127.0.0.1:16667"
  description = "where ngIRCd listens, in cleartext, for the gateway alone"
}
variable "webirc_password" {
  default     = "change-this"
  description = "WebircPassword of ngircd.conf; give it by SALLYPORT_VAR_webirc_password"
}

locals {
  host = "irc.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "irc" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.host]
  self_signed = true
}

backend "ircd" {
  servers = [var.ircd]
  forward {
    webirc = var.webirc_password # who the client is
  }
}

listener "irc" "irc" {
  address  = [":6667"]
  hostname = local.host
  backend  = backend.ircd
  options {
    sts_port = 6697
  }
}

# Clients expect one name on both ports, so both have one certificate.
listener "irc" "ircs" {
  address  = [":6697"]
  hostname = local.host
  opossum  = "accepted"
  backend  = backend.ircd
  options {
    sts_duration = "5m" # longer when it has proved itself: STS binds clients
  }
}
