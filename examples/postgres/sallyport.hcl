# A database behind sallyport: SSLRequest and direct TLS on 5432, for a
# PostgreSQL in cleartext.
#
#   sallyport check -c examples/postgres/sallyport.hcl
#   sallyport run -c examples/postgres/sallyport.hcl -var domain=example.org
#
# check warns: The backend does not learn who the client is

variable "domain" {
  default = "example.org"
}
variable "postgres" {
  default     = "127.0.0.1:15432"
  description = "where PostgreSQL listens, in cleartext, for the gateway alone"
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

backend "postgres" {
  servers = [var.postgres] # PostgreSQL reads no PROXY header: see README.md for what to change there
}

listener "postgres" "db" {
  address  = [":5432"]
  hostname = local.host
  backend  = backend.postgres
}
