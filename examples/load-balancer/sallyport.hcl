# A load balancer in front: it passes TCP on to several gateways and says in a
# PROXY header who the client is. haproxy.cfg beside this file is one.
#
#   sallyport check -c examples/load-balancer/sallyport.hcl
#   sallyport run   -c examples/load-balancer/sallyport.hcl -var address=192.0.2.21

variable "domain" {
  default = "example.org"
}
variable "address" {
  default     = "127.0.0.1"
  description = "of this gateway, in the network of the load balancers"
}
variable "balancers" {
  default     = ["192.0.2.11", "192.0.2.12"]
  description = "who sends the PROXY header"
}
variable "dovecot" {
  default     = "192.0.2.31"
  description = "where Dovecot listens, in cleartext, for the gateways alone"
}

locals {
  imap = "imap.${var.domain}"
}

admin {
  address = "${var.address}:9142" # the balancer asks /readyz, Prometheus /metrics
}

certificate "imap" {
  # For a first try. In production: cert_file and key_file, the same on all.
  names       = [local.imap]
  self_signed = true
}

policy "default" {
  # Others take the new clients while this one drains.
  drain_timeout = "1h"

  # These must send the header, and nobody else may connect: an address that
  # might be either could be forged. Limits count the client's own address.
  proxy_protocol {
    from = var.balancers
  }
}

# And Dovecot is told in turn.
backend "dovecot" {
  servers = ["${var.dovecot}:10143"]
  send    = "proxy-v2"

  probe {
    interval = "10s"
  }
}

listener "imap" "imap" {
  address  = ["${var.address}:143"]
  hostname = local.imap
  backend  = backend.dovecot
}

listener "imap" "imaps" {
  address  = ["${var.address}:993"]
  hostname = local.imap
  opossum  = "accepted" # clients expect one name on both ports
  backend  = backend.dovecot
}
