# XMPP behind sallyport: clients on 5222 and 5223, other servers on 5269 and 5270,
# for a Prosody in cleartext.
#
#   sallyport check -c examples/xmpp/sallyport.hcl
#   sallyport run -c examples/xmpp/sallyport.hcl -var domain=example.org
#
# check warns: The backend does not learn who the client is

variable "domain" {
  default = "example.org"
}
variable "prosody" {
  default     = "127.0.0.1"
  description = "where Prosody listens, in cleartext, for the gateway alone"
}

admin {
  address = "127.0.0.1:9142" # /metrics /healthz /readyz
}

# For the domain that users have behind their @, and for its rooms.
certificate "xmpp" {
  # For a first try. In production: cert_file and key_file, from your ACME client.
  names       = [var.domain, "rooms.${var.domain}"]
  self_signed = true
}

backend "clients" {
  servers = ["${var.prosody}:15222"] # Prosody reads no PROXY header: see README.md for what to change there
}
backend "servers" {
  servers = ["${var.prosody}:15269"]
}

# Clients expect one name on both ports, so both have one certificate.
listener "xmpp" "clients" {
  address  = [":5222"]
  hostname = var.domain
  opossum  = "accepted"
  backend  = backend.clients
}
listener "xmpp" "clients-tls" {
  address  = [":5223"]
  hostname = var.domain
  backend  = backend.clients
}

# Streams for any other host end with host-unknown, before Prosody hears of them.
listener "xmpp-server" "servers" {
  address  = [":5269"]
  hostname = var.domain
  opossum  = "accepted"
  route {
    host    = [var.domain, "rooms.${var.domain}"]
    backend = backend.servers
  }
}
listener "xmpp-server" "servers-tls" {
  address  = [":5270"]
  hostname = var.domain
  route {
    host    = [var.domain, "rooms.${var.domain}"]
    backend = backend.servers
  }
}
