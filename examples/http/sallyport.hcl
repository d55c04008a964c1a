# An old web server and a print server behind sallyport: https on 443, port 80
# that only leads there, and printing with TLS on request on 631.
#
#   sallyport check -c examples/http/sallyport.hcl
#   sallyport run -c examples/http/sallyport.hcl -var domain=example.org
#
# check warns: A port that guesses how TLS begins

variable "domain" {
  default = "example.org"
}
variable "site" {
  default     = "127.0.0.1:8080"
  description = "the web server, in cleartext, for the gateway alone"
}
variable "cups" {
  default     = "192.0.2.60:631"
  description = "the print server; on loopback CUPS answers to no name but localhost"
}

locals {
  www     = "www.${var.domain}"
  printer = "print.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

# For a first try. In production: cert_file and key_file, from your ACME client.
certificate "www" {
  names       = [local.www]
  self_signed = true
}

# Printers have a certificate of their own: a port that upgrades must not show
# that of a website (Opossum).
certificate "print" {
  names       = [local.printer]
  self_signed = true
}

backend "site" {
  servers = [var.site]
}
backend "cups" {
  servers = [var.cups]
}

listener "http" "https" {
  address  = [":443"]
  hostname = local.www
  certs    = [certificate.www]
  backend  = backend.site
  options {
    hsts = "max-age=600" # longer when it has proved itself: browsers remember it
  }
}

listener "http" "http" {
  address  = [":80"]
  hostname = local.www
  certs    = [certificate.www]
  backend  = backend.site
  options {
    redirect = true
  }
}

# On 631 clients expect both: ipps, where TLS comes first, and ipp, where they
# ask for it. The first byte tells which.
listener "http" "print" {
  address  = [":631"]
  mode     = "auto"
  hostname = local.printer
  certs    = [certificate.print]
  opossum  = "accepted" # a printer is no website
  backend  = backend.cups
  options {
    upgrade = true
  }
}
