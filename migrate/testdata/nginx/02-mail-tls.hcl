# Made by `sallyport import nginx 02-mail-tls.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 02-mail-tls.conf:86: mail server 13993: ssl_password_file is not carried over: keys with a
#   passphrase are not read: openssl pkey -in KEY -out KEY.pem takes it away
# 02-mail-tls.conf:83: mail server 13993: this listener is not carried over: without a certificate
#   in a PEM file there is no TLS
# 02-mail-tls.conf:89: mail server unix:/run/nginx-imap.sock: listen unix:/run/nginx-imap.sock is
#   not carried over: a listener takes host:port, one port a time
# 02-mail-tls.conf:90: mail server unix:/run/nginx-imap.sock: this server is not carried over: there
#   is no address to listen on
# 02-mail-tls.conf:92: mail server 14993: this server is not carried over: it has no protocol that
#   is spoken
# 02-mail-tls.conf:3: mail: auth_http for smtp is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.smtp_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are
# 02-mail-tls.conf:3: mail: auth_http for smtp is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.smtp_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are; it also checked the passwords of
#   SMTP, so let the server offer AUTH itself, and relay for nobody because of the gateway's address
# 02-mail-tls.conf:3: mail: auth_http for imap is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.imap_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are
# 02-mail-tls.conf:3: mail: auth_http for pop3 is not carried over: it told for each login which
#   server it belongs to, and sallyport looks at no login: set var.pop3_server to the server, or to
#   a director (Dovecot's proxy) that knows where mailboxes are
# 02-mail-tls.conf:11: mail: ssl_protocols: TLS 1.0 is broken (RFC 8996) and spoken only where
#   cleartext is allowed; here it is TLS 1.2 and up
# 02-mail-tls.conf:4: mail: auth_http_header is not carried over: nobody is asked over HTTP
# 02-mail-tls.conf:5: mail: proxy_pass_error_message is not carried over: what the server says
#   reaches the client as it is
# 02-mail-tls.conf:12: mail: ssl_ciphers is not carried over: ciphers are those of crypto/tls with
#   forward secrecy, and cannot be chosen
# 02-mail-tls.conf:13: mail: ssl_session_cache is not carried over: sessions are resumed by tickets,
#   which need no cache

variable "smtp_server" {
  description = "the server behind the smtp listeners: set it, 192.0.2.1:25 is nobody"
  default     = "192.0.2.1:25"
}

variable "imap_server" {
  description = "the server behind the imap listeners: set it, 192.0.2.1:143 is nobody"
  default     = "192.0.2.1:143"
}

variable "pop3_server" {
  description = "the server behind the pop3 listeners: set it, 192.0.2.1:110 is nobody"
  default     = "192.0.2.1:110"
}

variable "load_balancers" {
  description = "who may send a PROXY header: set it to the addresses of your load balancers"
  default     = ["192.0.2.0/24"]
}

certificate "mail_rsa" {
  cert_file = "/etc/ssl/mail.rsa.pem"
  key_file  = "/etc/ssl/mail.rsa.key"
}

certificate "mail_ecdsa" {
  cert_file = "/etc/nginx/ssl/mail.ecdsa.pem"
  key_file  = "/etc/nginx/ssl/mail.ecdsa.key"
}

tls "smtp" {
  min_version = "1.0"
}

policy "smtp" {
  idle_timeout = "24h"

  dialogue {
    timeout = "2m"
  }
}

backend "smtp" {
  servers = [var.smtp_server]

  forward {
    xclient = true
  }
}

listener "smtp" "smtp" {
  address   = ["0.0.0.0:25", "[::]:25"]
  cleartext = "allow"
  hostname  = "mail.example.org"
  certs     = [certificate.mail_rsa, certificate.mail_ecdsa]
  tls       = tls.smtp
  policy    = policy.smtp
  backend   = backend.smtp

  options {
    greet_wait = "3s"
  }
}

backend "smtp_2" {
  servers = [var.smtp_server]
}

# 02-mail-tls.conf:33: smtp_greeting_delay 1m: 20s is the longest greet_wait
listener "smtp" "submissions" {
  address  = ["0.0.0.0:465"]
  hostname = "mail.example.org"
  certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
  policy   = policy.smtp
  backend  = backend.smtp_2
}

# 02-mail-tls.conf:33: smtp_greeting_delay 1m: 20s is the longest greet_wait
listener "smtp" "submission" {
  address  = ["0.0.0.0:587"]
  hostname = "mail.example.org"
  certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
  policy   = policy.smtp
  backend  = backend.smtp_2

  options {
    greet_wait = "20s"
  }
}

listener "smtp" "smtp_2525" {
  address        = ["0.0.0.0:2525"]
  mode           = "starttls"
  cleartext      = "allow"
  cleartext_auth = true
  hostname       = "mail.example.org"
  certs          = [certificate.mail_rsa, certificate.mail_ecdsa]
  tls            = tls.smtp
  policy         = policy.smtp
  backend        = backend.smtp
}

backend "imap" {
  servers = [var.imap_server]
}

listener "imap" "imap" {
  address   = ["0.0.0.0:143"]
  cleartext = "allow"
  hostname  = "mail.example.org"
  certs     = [certificate.mail_rsa, certificate.mail_ecdsa]
  tls       = tls.smtp
  policy    = policy.smtp
  backend   = backend.imap
}

tls "imaps" {
  min_version = "1.3"
}

backend "imap_2" {
  servers = [var.imap_server]
  send    = "proxy-v1"
}

# 02-mail-tls.conf:45: backlog=1024 of listen *:993 is not carried over: options of sockets cannot
#   be chosen, save policy.keepalive
listener "imap" "imaps" {
  address  = ["0.0.0.0:993"]
  hostname = "mail.example.org"
  certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
  tls      = tls.imaps
  policy   = policy.smtp
  backend  = backend.imap_2
}

policy "pop3s" {
  idle_timeout = "24h"

  dialogue {
    timeout = "2m"
  }

  proxy_protocol {
    from = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.9"]
  }
}

backend "pop3" {
  servers = [var.pop3_server]
}

# 02-mail-tls.conf:55: set_real_ip_from balancer.internal is not carried over: a network is wanted:
#   names and sockets cannot send a PROXY header here
listener "pop3" "pop3s" {
  address  = ["192.0.2.5:995"]
  hostname = "mail.example.org"
  certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
  policy   = policy.pop3s
  backend  = backend.pop3
}

# 02-mail-tls.conf:55: set_real_ip_from balancer.internal is not carried over: a network is wanted:
#   names and sockets cannot send a PROXY header here
listener "pop3" "pop3" {
  address   = ["192.0.2.5:110"]
  cleartext = "allow"
  hostname  = "mail.example.org"
  certs     = [certificate.mail_rsa, certificate.mail_ecdsa]
  tls       = tls.smtp
  policy    = policy.pop3s
  backend   = backend.pop3
}

policy "pop3_10995" {
  idle_timeout = "24h"

  dialogue {
    timeout = "2m"
  }

  proxy_protocol {
    from = var.load_balancers
  }
}

# 02-mail-tls.conf:58: proxy_protocol of listen: nginx takes the header from everybody; here it is
#   taken from var.load_balancers alone, and nobody else gets in: set it, or nobody does
listener "pop3" "pop3_10995" {
  address  = [":10995"]
  mode     = "implicit"
  hostname = "mail.example.org"
  certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
  policy   = policy.pop3_10995
  backend  = backend.pop3
}

tls "imap_10993" {
  client_auth {
    mode    = "require"
    ca_file = "/etc/ssl/clients.pem"
  }
}

# 02-mail-tls.conf:67: ssl_verify_depth is not carried over: chains have no highest length
listener "imap" "imap_10993" {
  address  = ["0.0.0.0:10993"]
  mode     = "implicit"
  hostname = "mail.example.org"
  certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
  tls      = tls.imap_10993
  policy   = policy.smtp
  backend  = backend.imap
}

# tls "imap_11993" {
#   client_auth {
#     mode    = "request"
#     ca_file = "/etc/ssl/clients.pem"
#   }
# }

# 02-mail-tls.conf:74: ssl_crl is not carried over: revoked certificates of clients are not told
#   from good ones
# The listener is a comment, because ssl_crl would no longer guard it: settle that first, then take
#   the # away.
# listener "imap" "imap_11993" {
#   address  = ["0.0.0.0:11993"]
#   mode     = "implicit"
#   hostname = "mail.example.org"
#   certs    = [certificate.mail_rsa, certificate.mail_ecdsa]
#   tls      = tls.imap_11993
#   policy   = policy.smtp
#   backend  = backend.imap
# }

# 02-mail-tls.conf:81: server_name ~^imap is not carried over: it is no host name
# 02-mail-tls.conf:80: ssl_verify_client optional_no_ca is not carried over: a certificate that is
#   not verified is worth nothing, and is not asked for
listener "imap" "imap_12993" {
  address = ["0.0.0.0:12993"]
  mode    = "implicit"
  certs   = [certificate.mail_rsa, certificate.mail_ecdsa]
  policy  = policy.smtp
  backend = backend.imap
}
