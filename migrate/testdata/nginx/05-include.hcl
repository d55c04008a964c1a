# Made by `sallyport import nginx 05-include.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 05-include.conf:3: frobnicate is not carried over: the directive is not known
# 05-include.conf:4: http is not carried over: web servers stay with nginx
# 05-include.conf:10: server is not carried over: it stands outside of mail and stream: import the
#   file that includes this one
# mail.d/imap.conf:1: mail: auth_http for imap is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.imap_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are

variable "imap_server" {
  description = "the server behind the imap listeners: set it, 192.0.2.1:143 is nobody"
  default     = "192.0.2.1:143"
}

certificate "mail" {
  cert_file = "/etc/ssl/mail.pem"
  key_file  = "/etc/ssl/mail.key"
}

backend "imap" {
  servers = [var.imap_server]
}

listener "imap" "imaps" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.mail]
  backend = backend.imap
}
