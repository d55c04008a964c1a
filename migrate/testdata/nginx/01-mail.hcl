# Made by `sallyport import nginx 01-mail.conf`. What could not be carried over is named beside the
#   block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 01-mail.conf:2: user is not carried over: the systemd unit runs sallyport as a user of its own
# 01-mail.conf:3: worker_processes is not carried over: there is one process, on all CPUs
# 01-mail.conf:4: error_log is not carried over: the log goes to standard error; its level is
#   log.level
# 01-mail.conf:6: events is not carried over: connections are bounded by policy.limits, and the
#   limit of open files is raised by itself
# 01-mail.conf:23: mail server 25: this listener is not carried over: without a certificate in a PEM
#   file there is no TLS
# 01-mail.conf:30: mail server 110: proxy_pass_error_message is not carried over: what the server
#   says reaches the client as it is
# 01-mail.conf:27: mail server 110: this listener is not carried over: without a certificate in a
#   PEM file there is no TLS
# 01-mail.conf:32: mail server 143: this listener is not carried over: without a certificate in a
#   PEM file there is no TLS
# 01-mail.conf:36: mail server 587: this listener is not carried over: without a certificate in a
#   PEM file there is no TLS
# 01-mail.conf:12: mail: auth_http for smtp is not carried over: it told for each login which server
#   it belongs to, and sallyport looks at no login: set var.smtp_server to the server, or to a
#   director (Dovecot's proxy) that knows where mailboxes are; it also checked the passwords of
#   SMTP, so let the server offer AUTH itself, and relay for nobody because of the gateway's address
# 01-mail.conf:12: mail: auth_http for pop3 is not carried over: it told for each login which server
#   it belongs to, and sallyport looks at no login: set var.pop3_server to the server, or to a
#   director (Dovecot's proxy) that knows where mailboxes are
# 01-mail.conf:12: mail: auth_http for imap is not carried over: it told for each login which server
#   it belongs to, and sallyport looks at no login: set var.imap_server to the server, or to a
#   director (Dovecot's proxy) that knows where mailboxes are
# 01-mail.conf:14: mail: imap_capabilities is not carried over: what the server offers is learned
#   from it
# 01-mail.conf:16: mail: pop3_auth is not carried over: the server offers what it can, and its
#   offers are passed on
# 01-mail.conf:17: mail: pop3_capabilities is not carried over: what the server offers is learned
#   from it
# 01-mail.conf:20: mail: smtp_capabilities is not carried over: what the server offers is learned
#   from it

variable "smtp_server" {
  description = "the server behind the smtp listeners: set it, 192.0.2.1:25 is nobody"
  default     = "192.0.2.1:25"
}

variable "pop3_server" {
  description = "the server behind the pop3 listeners: set it, 192.0.2.1:110 is nobody"
  default     = "192.0.2.1:110"
}

variable "imap_server" {
  description = "the server behind the imap listeners: set it, 192.0.2.1:143 is nobody"
  default     = "192.0.2.1:143"
}
