certificate "mail" {
  names       = ["chat.example.org"]
  self_signed = true
}
backend "chat" {
  servers = ["192.0.2.30:7001"]
  send    = "proxy-v2"
}
listener "test" "unknown" {
  address = ["127.0.0.1:7001"]
  options {
    text    = ""
    nmber   = 1
    nothing = true
  }
  backend = backend.chat
}
listener "test" "values" {
  address = ["127.0.0.2:7001"]
  options {
    text     = ["x"]
    flag     = 1
    number   = "many"
    wait     = 3
    words    = "one"
    strength = "week"
  }
  backend = backend.chat
}
listener "test" "refused-by-the-protocol" {
  address = ["127.0.0.3:7001"]
  options {
    text   = ""
    number = 10
  }
  backend = backend.chat
}
listener "test" "required" {
  address = ["127.0.0.4:7001"]
  options {}
  backend = backend.chat
}
listener "imap" "of-another" {
  address = ["127.0.0.5:143"]
  options { strict_newlines = true }
  backend = backend.chat
}
