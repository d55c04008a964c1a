# Whatever is wrong with a secret, it is not shown.
locals {
  password = env("PASSWORD", "s3cret in the environment")
}
certificate "chat" {
  names       = ["chat.example.org"]
  self_signed = true
}
backend "chat" {
  servers = ["192.0.2.30:7001"]
  forward {
    webirc = local.password
  }
}
backend "operand" {
  servers = [for n in [1] : n + local.password]
  send    = "proxy-v2"
}
listener "imap" "chat" {
  address = [":143"]
  backend = backend.chat
}
