# Made by `sallyport import nginx 06-syntax.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 06-syntax.conf:2: mail: auth_http for imap is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.imap_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are
# 06-syntax.conf:4: mail: the certificate in a variable, an engine or the configuration is not
#   carried over: it comes from PEM files; of several the names in them choose
# 06-syntax.conf:2: mail: auth_http for pop3 is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.pop3_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are

variable "imap_server" {
  description = "the server behind the imap listeners: set it, 192.0.2.1:143 is nobody"
  default     = "192.0.2.1:143"
}

variable "pop3_server" {
  description = "the server behind the pop3 listeners: set it, 192.0.2.1:110 is nobody"
  default     = "192.0.2.1:110"
}

certificate "b__c" {
  cert_file = "/etc/ssl/a\\ b%%{c}.pem"
  key_file  = "/etc/ssl/k2.key"
}

backend "imap" {
  servers = [var.imap_server]
}

listener "imap" "imaps" {
  address  = ["0.0.0.0:993"]
  hostname = "mail.example.org"
  certs    = [certificate.b__c]
  backend  = backend.imap
}

backend "pop3" {
  servers = [var.pop3_server]
}

listener "pop3" "pop3" {
  address  = ["0.0.0.0:110"]
  hostname = "mail.example.org"
  certs    = [certificate.b__c]
  backend  = backend.pop3
}
