state {
  path = "/a-directory-with-a-name-that-is-a-good-deal-longer-than-it-ought-to-be/and-another-below-it-that-is-no-shorter"
}
certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address = [":143"]
  backend = backend.dovecot
}
