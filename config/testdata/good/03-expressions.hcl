# Variables, locals, for, templates and functions, in any order.
listener "imap" "imap" {
  address  = [for port in local.ports : ":${port}" if port < 1000]
  mode     = null # as if it weren't written
  hostname = local.names[0]
  certs    = local.certs
  policy   = { strict = policy.strict, other = policy.default }[lower("STRICT")]
  backend  = var.spare ? backend.spare : backend.dovecot
}
locals {
  names = [for n in var.names : "${n}.${var.domain}"]
  ports = concat(range(143, 144), [1143])
  certs = [certificate.mail, certificate["mail"]]
  hosts = { a = "192.0.2.1", b = "192.0.2.2" }
}
variable "names" { default = ["imap", "mail"] }
variable "domain" { default = "example.org" }
variable "spare" { default = false }
certificate "mail" {
  names       = distinct(flatten([local.names, [local.names[0]], formatlist("%s.example.net", ["imap"])]))
  self_signed = true
}
backend "spare" {
  servers = ["192.0.2.99:143"]
  send    = "proxy-v2"
}
backend "dovecot" {
  servers = concat(
    [for name in sort(keys(local.hosts)) : "${lookup(local.hosts, name, "none")}:143"],
    [join(":", [env("DOVECOT", "192.0.2.3"), tostring(143)])],
    [for line in split("\n", file("hosts.txt")) : "${trimspace(upper(line))}:143" if length(split(".", line)) > 1],
    [format("%s:%d", replace("192-0-2-7", "-", "."), max(143, 1))],
  )
  send = contains(["a"], "a") ? coalesce("", "proxy-v2") : "none"
}
policy "strict" {
  idle_timeout = "${5 * 60}s"
}
