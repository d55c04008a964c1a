certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
backend "spare" {
  servers = ["192.0.2.21:143"]
  send    = "proxy-v2"
}
listener "imap" "exact" {
  address = [":143"]
  certs   = ["mail"]
  backend = "dovecot"
}
listener "imap" "near" {
  address = ["127.0.0.2:993"]
  tls     = "modern"
  policy  = "defualt"
  backend = "postfix"
}
listener "imap" "kinds" {
  address = ["127.0.0.3:993"]
  certs   = certificate.mail
  policy  = backend.spare
  backend = [backend.dovecot]
}
