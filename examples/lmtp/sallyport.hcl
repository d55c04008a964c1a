# Delivery behind sallyport: STARTTLS on 24, for a mail store in cleartext, from
# a mail server elsewhere.
#
#   sallyport check --strict -c examples/lmtp/sallyport.hcl
#   sallyport run -c examples/lmtp/sallyport.hcl -var domain=example.org

variable "domain" {
  default = "example.org"
}
variable "dovecot" {
  default     = "127.0.0.1:10024"
  description = "where Dovecot's lmtp listens, in cleartext, for the gateway alone"
}

locals {
  host = "store.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "store" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.host]
  self_signed = true
}

backend "dovecot" {
  servers = [var.dovecot]
  send    = "proxy-v2"
}

listener "lmtp" "delivery" {
  address  = [":24"]
  hostname = local.host
  backend  = backend.dovecot
}
