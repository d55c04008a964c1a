variable "certs" {}
certificate "expired" {
  cert_file = "${var.certs}/old.crt"
  key_file  = "${var.certs}/old.key"
}
certificate "soon" {
  cert_file = "${var.certs}/soon.crt"
  key_file  = "${var.certs}/soon.key"
}
certificate "fine" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/mail.key"
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.dovecot
}
