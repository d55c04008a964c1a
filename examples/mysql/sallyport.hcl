# A database behind sallyport: SSLRequest on 3306, for a MariaDB in cleartext.
#
#   sallyport check -c examples/mysql/sallyport.hcl
#   sallyport run -c examples/mysql/sallyport.hcl -var domain=example.org

variable "domain" {
  default = "example.org"
}
variable "mariadb" {
  default     = "127.0.0.1:13306"
  description = "where MariaDB listens, in cleartext, for the gateway alone"
}

locals {
  host = "db.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "db" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.host]
  self_signed = true
}

backend "mariadb" {
  servers = [var.mariadb]
  send    = "proxy-v2" # proxy-protocol-networks = 127.0.0.1 in MariaDB
}

listener "mysql" "db" {
  address  = [":3306"]
  hostname = local.host
  backend  = backend.mariadb
}
