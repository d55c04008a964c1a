certificate "second" {
  names       = ["second.example.org"]
  self_signed = true
}
