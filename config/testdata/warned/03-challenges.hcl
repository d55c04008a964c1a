# Challenges that come to ports where nobody of ours is, and a name that two
# authorities are asked for.
acme "mapped" { # both listeners answer, if the ports lead to them
  directory  = "https://ca.example.org/directory"
  accept_tos = true
}
acme "written" {
  directory  = "https://staging.example.org/directory"
  accept_tos = true
  challenges = ["http-01", "tls-alpn-01"]
}
certificate "mapped" {
  names     = ["mx.example.org"]
  acme      = acme.mapped
  bootstrap = "self_signed"
}
certificate "written" {
  names = ["other.example.org", "MX.example.org"]
  acme  = acme.written
}
listener "web" "front" {
  address = [":8443", ":8080"]
}
