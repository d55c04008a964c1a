# Made by `sallyport import stunnel 02-starttls.conf`. What could not be carried over is named
#   beside the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 02-starttls.conf:9: foreground is not carried over: sallyport always stays in the foreground,
#   under systemd or a container
# 02-starttls.conf:10: syslog is not carried over: the log goes to standard error, and systemd keeps
#   it
# 02-starttls.conf:5: ciphers is not carried over: ciphers are those of crypto/tls with forward
#   secrecy, and cannot be chosen

log {
  level = "warn"
}

certificate "mail_example_org" {
  cert_file = "/etc/letsencrypt/live/mail.example.org/fullchain.pem"
  key_file  = "/etc/letsencrypt/live/mail.example.org/privkey.pem"
}

policy "submission" {
  idle_timeout = "30m"
}

backend "submission" {
  servers         = ["mx.internal:587"]
  connect_timeout = "5s"
}

# 02-starttls.conf:16: protocol = smtp: stunnel also takes TLS from the first byte on this port,
#   after 200 ms of silence; here clients ask for it. If some do not, write mode = "auto"
listener "smtp" "submission" {
  address = [":587"]
  certs   = [certificate.mail_example_org]
  policy  = policy.submission
  backend = backend.submission
}

listener "smtp" "submissions" {
  address = [":465"]
  certs   = [certificate.mail_example_org]
  policy  = policy.submission
  backend = backend.submission
}

backend "imap" {
  servers         = ["imap1.internal:143"]
  connect_timeout = "5s"

  server "imap2.internal:143" {
    backup = true
  }

  server "imap3.internal:143" {
    backup = true
  }
}

# 02-starttls.conf:26: failover = prio: the servers behind the first have no order among themselves
# 02-starttls.conf:27: protocol = imap: stunnel also takes TLS from the first byte on this port,
#   after 200 ms of silence; here clients ask for it. If some do not, write mode = "auto"
listener "imap" "imap" {
  address = ["192.0.2.1:143"]
  certs   = [certificate.mail_example_org]
  policy  = policy.submission
  backend = backend.imap
}

policy "imaps" {
  idle_timeout = "12h"
}

backend "imaps" {
  servers         = ["imap1.internal:143", "imap2.internal:143"]
  connect_timeout = "5s"
}

listener "imap" "imaps" {
  address = ["192.0.2.1:993"]
  certs   = [certificate.mail_example_org]
  policy  = policy.imaps
  backend = backend.imaps
}

tls "pop3-extern" {
  min_version = "1.3"
}

backend "pop3-extern" {
  servers         = ["127.0.0.1:110"]
  connect_timeout = "5s"
}

listener "pop3" "pop3-extern" {
  address = ["192.0.2.1:1110"]
  mode    = "starttls"
  certs   = [certificate.mail_example_org]
  tls     = tls.pop3-extern
  policy  = policy.submission
  backend = backend.pop3-extern
}
