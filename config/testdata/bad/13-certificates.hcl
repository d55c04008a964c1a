variable "certs" {}
certificate "nowhere" {}
certificate "everywhere" {
  cert_file   = "${var.certs}/mail.crt"
  key_file    = "${var.certs}/mail.key"
  self_signed = true
  names       = ["localhost"]
}
certificate "half" {
  cert_file = "${var.certs}/mail.crt"
}
certificate "nameless" {
  self_signed = true
}
certificate "misnamed" {
  self_signed = true
  names       = ["local host"]
}
certificate "missing" {
  cert_file = "${var.certs}/nothing.crt"
  key_file  = "${var.certs}/mail.key"
}
certificate "keyless" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/nothing.key"
}
certificate "mismatch" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/other.key"
}
certificate "swapped" {
  cert_file = "${var.certs}/mail.key"
  key_file  = "${var.certs}/mail.crt"
}
certificate "named" {
  cert_file = "${var.certs}/mail.crt"
  key_file  = "${var.certs}/mail.key"
  names     = ["mail.example.org"]
}
certificate "false" {
  self_signed = false
}
tls "no-file" {
  client_auth {
    mode    = "require"
    ca_file = "${var.certs}/nothing.pem"
  }
}
tls "no-certificate" {
  client_auth {
    mode    = "require"
    ca_file = "${var.certs}/mail.key"
  }
}
tls "no-mode" {
  client_auth {}
}
tls "directory" {
  client_auth {
    mode    = "request"
    ca_file = var.certs
  }
}
