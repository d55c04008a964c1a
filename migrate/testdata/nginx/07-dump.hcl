# Made by `sallyport import nginx 07-dump.conf`. What could not be carried over is named beside the
#   block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# /etc/nginx/nginx.conf:1: user is not carried over: the systemd unit runs sallyport as a user of
#   its own
# /etc/nginx/modules-enabled/50-mod-mail.conf:1: load_module is not carried over: all protocols are
#   in the binary
# /etc/nginx/nginx.conf:3: events is not carried over: connections are bounded by policy.limits, and
#   the limit of open files is raised by itself

variable "pop3_server" {
  description = "the server behind the pop3 listeners: set it, 192.0.2.1:110 is nobody"
  default     = "192.0.2.1:110"
}

certificate "mail" {
  cert_file = "/etc/nginx/snippets/mail.pem"
  key_file  = "/etc/nginx/snippets/mail.key"
}

backend "pop3" {
  servers = [var.pop3_server]
}

# /etc/nginx/mail.d/pop3.conf:2: auth_http for pop3 is not carried over: it told for each login
#   which server it belongs to, and sallyport looks at no login: set var.pop3_server to the server,
#   or to a director (Dovecot's proxy) that knows where mailboxes are
listener "pop3" "pop3s" {
  address = ["0.0.0.0:995"]
  certs   = [certificate.mail]
  backend = backend.pop3
}
