# ManageSieve behind sallyport: STARTTLS on 4190 for a Dovecot in cleartext.
#
#   sallyport check --strict -c examples/sieve/sallyport.hcl
#   sallyport run -c examples/sieve/sallyport.hcl -var domain=example.org

variable "domain" {
  default = "example.org"
}
variable "dovecot" {
  default     = "127.0.0.1:14190"
  description = "where Dovecot's managesieve-login listens, in cleartext, for the gateway alone"
}

locals {
  sieve = "sieve.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "sieve" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.sieve]
  self_signed = true
}

backend "dovecot" {
  servers = [var.dovecot]
  send    = "proxy-v2" # who the client is, and that it came in TLS
}

listener "sieve" "sieve" {
  address  = [":4190"]
  hostname = local.sieve
  backend  = backend.dovecot
}
