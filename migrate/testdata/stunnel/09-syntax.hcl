# Made by `sallyport import stunnel 09-syntax.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

certificate "d" {
  cert_file = "/etc/a $${b}/%%{c}/\"d\".pem"
  key_file  = "/etc/a\\b"
}

backend "x_1____weird____name" {
  servers = ["127.0.0.1:143"]
}

listener "imap" "x_1____weird____name" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.d]
  backend = backend.x_1____weird____name
}

certificate "a_b" {
  cert_file = "/etc/stunnel/a.b.pem"
  key_file  = "/etc/stunnel/a.b.pem"
}

# 09-syntax.conf:7: the address 0.0.0.0:993 is not carried over: another listener has it
listener "tcp" "x_1____weird____name_2" {
  address = ["0.0.0.0:994"]
  certs   = [certificate.a_b]
  backend = backend.x_1____weird____name
}

certificate "a_b_2" {
  cert_file = "/etc/stunnel/a_b.pem"
  key_file  = "/etc/stunnel/a_b.pem"
}

# 09-syntax.conf:11: the address 0.0.0.0:993 is not carried over: another listener has it
listener "tcp" "x" {
  address = ["0.0.0.0:996"]
  certs   = [certificate.a_b_2]
  backend = backend.x_1____weird____name
}
