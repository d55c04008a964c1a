# Mail for one domain, with certificates that sallyport has issued and renewed by
# itself: Let's Encrypt asks on ports 443 and 80 whether the names lead here.
#
#   sallyport check -c examples/acme/sallyport.hcl
#   sallyport run   -c examples/acme/sallyport.hcl -var domain=example.org
#
# This asks the staging authority, whose certificates nobody trusts, and whose
# limits forgive mistakes. README.md beside this file says when to go on.

variable "domain" {
  default = "example.org"
}
variable "directory" {
  default     = "https://acme-staging-v02.api.letsencrypt.org/directory"
  description = "for certificates that clients trust: https://acme-v02.api.letsencrypt.org/directory"
}

locals {
  mx   = "mx1.${var.domain}"  # STARTTLS: 25, 587
  mail = "mail.${var.domain}" # TLS from the first byte: 465, 993
}

log {
  format = "json"
}

admin {
  address = "127.0.0.1:9142" # /readyz says so while a certificate is missing
}

acme "letsencrypt" {
  directory  = var.directory
  email      = "hostmaster@${var.domain}"
  accept_tos = true # https://letsencrypt.org/repository/ has the terms
}

# A certificate for each kind of port: one for both is what Opossum needs.
certificate "mx" {
  names     = [local.mx]
  acme      = acme.letsencrypt
  bootstrap = "self_signed" # other servers send mail to it meanwhile, as they do not verify
}
certificate "mail" {
  names = [local.mail]
  acme  = acme.letsencrypt
}

# Where the authority finds its proofs. Nothing else is shown here.
listener "web" "front" {
  address = [":443", ":80"]
  certs   = [certificate.mail]
}

backend "mx" {
  servers = ["127.0.0.1:10025"]
  send    = "proxy-v2"
}
backend "submission" {
  servers = ["127.0.0.1:10587"]
  send    = "proxy-v2"
}
backend "dovecot" {
  servers = ["127.0.0.1:10143"]
  send    = "proxy-v2"
}

listener "smtp" "mx" {
  address   = ["0.0.0.0:25", "[::]:25"]
  cleartext = "allow" # a public MX must not require TLS (RFC 3207, 4)
  hostname  = local.mx
  certs     = [certificate.mx]
  backend   = backend.mx
}

listener "smtp" "submission" {
  address  = [":587"]
  hostname = local.mx
  certs    = [certificate.mx]
  backend  = backend.submission
}

listener "smtp" "submissions" {
  address  = [":465"]
  hostname = local.mail
  certs    = [certificate.mail]
  backend  = backend.submission
}

listener "imap" "imaps" {
  address  = [":993"]
  hostname = local.mail
  certs    = [certificate.mail]
  backend  = backend.dovecot
}
