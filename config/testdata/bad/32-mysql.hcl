certificate "db" {
  names       = ["db.example.org"]
  self_signed = true
}
backend "one" {
  servers = ["192.0.2.20:3306"]
  send    = "proxy-v2"
}
backend "two" {
  servers = ["192.0.2.21:3306"]
}
listener "mysql" "by-name" {
  address = [":3306"]
  route {
    sni     = ["one.example.org"]
    backend = backend.one
  }
  route { backend = backend.two }
}
listener "mysql" "implicit" {
  address = [":3307"]
  mode    = "implicit"
  backend = backend.one
}
