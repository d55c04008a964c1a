# The configuration of sallyport, as it comes with the package: one IMAP server
# on this machine, shown to nobody but this machine. It works as it stands, so
# that there is something to change.
#
#   sallyport check -c /etc/sallyport/sallyport.hcl    after each change
#   systemctl enable --now sallyport                   for the first time
#   systemctl reload sallyport                         from then on
#
# sallyport.hcl(5) has every attribute, and /usr/share/doc/sallyport/examples
# whole configurations: mail with Postfix and Dovecot, Exchange, a load balancer
# in front, Kubernetes.

admin {
  address = "127.0.0.1:9142" # /metrics, /healthz, /readyz
}

state {
  path = "/var/lib/sallyport"
}

policy "default" {
  # While sessions drain, new clients are turned away. An hour, the default, is
  # for a gateway with others beside it; one that is alone should be back soon.
  drain_timeout = "30s"
}

# In production, in place of the two lines:
#
#   cert_file = "/etc/sallyport/imap.crt"
#   key_file  = "/etc/sallyport/imap.key" # chown root:sallyport, chmod 0640
#
# They are read again when they change.
certificate "imap" {
  names       = ["localhost"]
  self_signed = true
}

# Who the client is must be said to the server, or it takes everyone for the
# gateway, which it may trust: here by IMAP's ID, where Dovecot has this address
# in login_trusted_networks.
backend "imap" {
  servers = ["127.0.0.1:10143"]

  forward {
    id = true
  }
}

listener "imap" "imaps" {
  address = ["127.0.0.1:993"] # ":993" to let the world in
  backend = backend.imap
}
