# Made by `sallyport import stunnel 07-include.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

certificate "stunnel" {
  cert_file = "/etc/stunnel/server.pem"
  key_file  = "/etc/stunnel/server.pem"
}

backend "imaps" {
  servers = ["127.0.0.1:143"]
}

listener "imap" "imaps" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.stunnel]
  backend = backend.imaps
}

backend "pop3s" {
  servers = ["127.0.0.1:110"]
}

# conf.d/02-pop3.inc:4: stack is not carried over: stacks grow as they must
listener "pop3" "pop3s" {
  address = ["0.0.0.0:995"]
  certs   = [certificate.stunnel]
  backend = backend.pop3s
}
