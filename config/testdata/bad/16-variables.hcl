variable "given-nothing" {
  description = "needs a value"
}
variable "refers" {
  default = local.a
}
variable "misspelt" {
  defualt = 1
}
variable "not a name" {
  default = 1
}
locals {
  a = local.b
  b = local.c
  c = local.a
  d = local.e
  f = local
  g = 1 + "x"
  h = local.g
}
certificate "mail" {
  names       = [local.a, var.given-nothing, local.h] # reported where it began
  self_signed = true
}
backend "dovecot" {
  servers = [var.absent]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.dovecot
}
