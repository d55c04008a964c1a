certificate "first" {
  names       = ["first.example.org"]
  self_signed = true
}
