# News behind sallyport: STARTTLS on 119, implicit TLS on 563, for an INN in
# cleartext.
#
#   sallyport check -c examples/nntp/sallyport.hcl
#   sallyport run -c examples/nntp/sallyport.hcl -var domain=example.org
#
# check warns: The backend does not learn who the client is

variable "domain" {
  default = "example.org"
}
variable "inn" {
  default     = "127.0.0.1:10119"
  description = "where innd or nnrpd listens, in cleartext, for the gateway alone"
}

locals {
  news = "news.${var.domain}"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

certificate "news" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [local.news]
  self_signed = true
}

backend "inn" {
  servers = [var.inn] # INN reads no PROXY header: see README.md for what to change there
}

listener "nntp" "nntp" {
  address  = [":119"]
  hostname = local.news
  backend  = backend.inn
}

# Newsreaders expect one name on both ports, so both have one certificate.
listener "nntp" "nntps" {
  address  = [":563"]
  hostname = local.news
  opossum  = "accepted"
  backend  = backend.inn
}
