# FTP behind sallyport: AUTH TLS on 21, implicit TLS on 990, for a ProFTPD in
# cleartext. Data connections pass the gateway and are in TLS, too.
#
#   sallyport check -c examples/ftp/sallyport.hcl
#   sallyport run -c examples/ftp/sallyport.hcl -var domain=example.org
#
# check warns: The backend does not learn who the client is

variable "domain" {
  default = "example.org"
}
variable "proftpd" {
  default     = "127.0.0.1:10021"
  description = "where ProFTPD listens, in cleartext, for the gateway alone"
}

locals {
  ftp = "ftp.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "ftp" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.ftp]
  self_signed = true
}

backend "proftpd" {
  servers = [var.proftpd] # see README.md for what to change there
}

listener "ftp" "ftp" {
  address  = [":21"]
  hostname = local.ftp
  options { passive_ports = "40000-40999" } # open in the firewall, like port 21
  backend = backend.proftpd
}

# Clients expect one name on both ports, so both have one certificate.
listener "ftp" "ftps" {
  address  = [":990"]
  hostname = local.ftp
  opossum  = "accepted"
  options { passive_ports = "40000-40999" }
  backend = backend.proftpd
}
