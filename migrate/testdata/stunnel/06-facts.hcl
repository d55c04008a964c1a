# Made by `sallyport import stunnel 06-facts.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 06-facts.conf:2: cert = mail.pem: a relative path begins at the configuration: write the whole
#   path if it is elsewhere

certificate "mail" {
  cert_file = "mail.pem"
  key_file  = "mail.pem"
}

backend "proxied" {
  servers = ["192.0.2.10:10143"]
  send    = "proxy-v1"
}

listener "imap" "proxied" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.mail]
  backend = backend.proxied
}

backend "transparent" {
  servers = ["192.0.2.11:110"]
  send    = "proxy-v2"
}

# 06-facts.conf:12: connect = 192.0.2.11:110 is not carried over: the server is there already
# 06-facts.conf:13: transparent = source: the server no longer sees the client's address as that of
#   the connection, but is told of it: let it accept PROXY v2 from the gateway, or nobody gets
#   through
listener "pop3" "transparent" {
  address = ["0.0.0.0:995"]
  certs   = [certificate.mail]
  backend = backend.transparent
}

backend "six" {
  servers = ["[2001:db8::25]:25", "unix:/run/postfix/smtpd.sock"]
}

listener "smtp" "six" {
  address = ["[::1]:465"]
  certs   = [certificate.mail]
  backend = backend.six
}

backend "guess" {
  servers = ["192.0.2.12:143"]
}

listener "imap" "guess" {
  address = ["0.0.0.0:20993"]
  mode    = "implicit"
  certs   = [certificate.mail]
  backend = backend.guess
}

backend "dispute" {
  servers = ["192.0.2.12:25"]
}

listener "tcp" "dispute" {
  address = ["0.0.0.0:992"]
  certs   = [certificate.mail]
  backend = backend.dispute
}
