# Names that no authority takes.
acme "ca" {
  directory  = "https://ca.example.org/directory"
  accept_tos = true
}
certificate "twice" {
  names = ["mx.example.org", "MX.example.org"]
  acme  = acme.ca
}
certificate "dot" {
  names = ["mx.example.org."]
  acme  = acme.ca
}
certificate "international" {
  names = ["bücher.example.org"]
  acme  = acme.ca
}
listener "web" "front" { address = [":443", ":80"] }
