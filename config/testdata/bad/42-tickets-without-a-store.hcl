# Shared tickets need a store.

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
