# Made by `sallyport import stunnel 01-sample.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 01-sample.conf:2: setuid is not carried over: the systemd unit runs sallyport as a user of its own
# 01-sample.conf:3: setgid is not carried over: the systemd unit runs sallyport as a user of its own
# 01-sample.conf:4: pid is not carried over: systemd knows the process without a file
# 01-sample.conf:6: output is not carried over: the log goes to standard error, and systemd keeps it
# 01-sample.conf:10: [gmail-pop3]: this service is not carried over: with client = yes stunnel takes
#   cleartext and speaks TLS to the server, outwards; sallyport ends the TLS of clients that come in
# 01-sample.conf:40: [shell]: this service is not carried over: exec runs a program for each
#   connection; run it behind a port (systemd's Accept=yes does that) and connect to it

log {
  level = "info"
}

certificate "stunnel" {
  cert_file = "/etc/stunnel/stunnel.pem"
  key_file  = "/etc/stunnel/stunnel.pem"
}

backend "pop3s" {
  servers = ["127.0.0.1:110"]
}

listener "pop3" "pop3s" {
  address = ["0.0.0.0:995"]
  certs   = [certificate.stunnel]
  backend = backend.pop3s
}

backend "imaps" {
  servers = ["127.0.0.1:143"]
}

listener "imap" "imaps" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.stunnel]
  backend = backend.imaps
}

backend "ssmtp" {
  servers = ["127.0.0.1:25"]
}

listener "smtp" "ssmtp" {
  address = ["0.0.0.0:465"]
  certs   = [certificate.stunnel]
  backend = backend.ssmtp
}

backend "https" {
  servers = ["127.0.0.1:80"]
}

# 01-sample.conf:38: TIMEOUTclose is not carried over: a side that has ended is passed on, and the
#   other may finish
listener "tcp" "https" {
  address = ["0.0.0.0:443"]
  certs   = [certificate.stunnel]
  backend = backend.https
}

backend "mysql" {
  servers = ["unix:/run/mysqld/mysqld.sock"]
}

listener "tcp" "mysql" {
  address = ["0.0.0.0:3307"]
  certs   = [certificate.stunnel]
  backend = backend.mysql
}
