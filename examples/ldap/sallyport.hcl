# A directory behind sallyport: StartTLS on 389, implicit TLS on 636, for a
# slapd in cleartext.
#
#   sallyport check --strict -c examples/ldap/sallyport.hcl
#   sallyport run -c examples/ldap/sallyport.hcl -var domain=example.org

variable "domain" {
  default = "example.org"
}
variable "slapd" {
  default     = "127.0.0.1:10389"
  description = "where slapd listens with pldap://, for the gateway alone"
}

locals {
  host = "ldap.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "ldap" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.host]
  self_signed = true
}

backend "slapd" {
  servers = [var.slapd]
  send    = "proxy-v2" # who the client is, for access rules and the log
}

listener "ldap" "ldap" {
  address  = [":389"]
  hostname = local.host
  backend  = backend.slapd
}

# Clients expect one name on both ports, so both have one certificate.
listener "ldap" "ldaps" {
  address  = [":636"]
  hostname = local.host
  opossum  = "accepted"
  backend  = backend.slapd
}
