# Shared tickets need one store, and a secret that is one.

acme "one" {
  directory  = "https://acme.example.org/directory"
  accept_tos = true
  store "dir" {
    path        = "/var/lib/sallyport/acme"
    secret_file = "short.txt"
  }
}
acme "two" {
  directory  = "https://acme.example.net/directory"
  accept_tos = true
  store "dir" {
    path        = "/var/lib/sallyport/acme"
    secret_file = "absent.key"
  }
}
tls "shared" { tickets = "shared" }

certificate "dev" {
  names       = ["localhost"]
  self_signed = true
}
backend "b" { servers = ["192.0.2.1:25"] }
listener "smtp" "mx" {
  address = [":25"]
  tls     = tls.shared
  backend = backend.b
}
