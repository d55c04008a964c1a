# A console behind sallyport: START_TLS on 23, implicit TLS on 992, for a switch
# that knows Telnet only.
#
#   sallyport check -c examples/telnet/sallyport.hcl
#   sallyport run -c examples/telnet/sallyport.hcl -var domain=example.org
#
# check warns: The backend does not learn who the client is

variable "domain" {
  default = "example.org"
}
variable "switch" {
  default     = "192.0.2.30:23"
  description = "the console, which lets nobody but the gateway in"
}
locals {
  host = "console.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "console" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.host]
  self_signed = true
}

# Without this anybody reaches the password prompt. Put it in, and
# tls = tls.operators into both listeners, when the operators have certificates:
#
#   tls "operators" {
#     client_auth {
#       mode    = "require"
#       ca_file = "/etc/sallyport/operators.pem"
#     }
#   }

backend "switch" {
  servers = [var.switch]
}

listener "telnet" "console" {
  address  = [":23"]
  hostname = local.host
  backend  = backend.switch
}

# Clients expect one name on both ports, so both have one certificate.
listener "telnet" "consoles" {
  address  = [":992"]
  hostname = local.host
  opossum  = "accepted"
  backend  = backend.switch
}
