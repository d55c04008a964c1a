certificate "mail" {
  names       = [joine(".", ["mx1", "example.org"])]
  self_signed = true
}
backend "dovecot" {
  servers = [env("DOVECOT")]
  send    = "proxy-v2"
}
backend "file" {
  servers = split(",", file("no-such-file"))
  send    = "proxy-v2"
}
backend "directory" {
  servers = split(",", file("."))
  send    = "proxy-v2"
}
backend "defaults" {
  servers = [env("DOVECOT", "a:1", "b:1")]
  send    = "proxy-v2"
}
listener "imap" "imap" {
  address = [for p in ["143"] : ":${p.x}"]
  backend = backend.dovecot
}
