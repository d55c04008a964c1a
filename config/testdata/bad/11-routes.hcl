certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers = ["192.0.2.20:143"]
  send    = "proxy-v2"
}
listener "imap" "none" {
  address = ["127.0.0.1:143"]
}
listener "imap" "two-ways" {
  address = ["127.0.0.2:143"]
  backend = backend.dovecot
  route { backend = backend.dovecot }
}
listener "imap" "unreachable" {
  address = ["127.0.0.3:143"]
  route {
    sni     = ["*.example.org", "example.net"]
    backend = backend.dovecot
  }
  route {
    sni     = ["IMAP.example.org", "example.net"]
    backend = backend.dovecot
  }
  route {
    sni     = ["a.imap.example.org"] # two labels more: reached
    backend = backend.dovecot
  }
  route {
    backend = backend.dovecot
  }
  route {
    sni     = ["late.example"]
    backend = backend.dovecot
  }
}
listener "imap" "by-host" {
  address = ["127.0.0.6:143"]
  route {
    host    = ["imap.example.org"]
    backend = backend.dovecot
  }
}
listener "xmpp" "unreachable-hosts" {
  address = ["127.0.0.7:5222"]
  route {
    host    = ["*.example.org"]
    backend = backend.dovecot
  }
  route {
    host    = ["chat.example.org"]
    backend = backend.dovecot
  }
  route {
    sni     = ["*.example.net"] # stands for hosts, too
    backend = backend.dovecot
  }
  route {
    host    = ["chat.example.net"]
    backend = backend.dovecot
  }
}
listener "imap" "patterns" {
  address = ["127.0.0.4:143"]
  route {
    sni     = ["*.*.example.org"]
    backend = backend.dovecot
  }
  route {
    sni     = ["mail*.example.org"]
    backend = backend.dovecot
  }
  route {
    sni     = ["192.0.2.1"]
    backend = backend.dovecot
  }
  route {
    sni     = ["bücher.example"]
    backend = backend.dovecot
  }
  route {
    sni     = ["example.org."]
    backend = backend.dovecot
  }
  route {
    sni     = []
    backend = backend.dovecot
  }
  route {
    sni = ["example.org"]
  }
}
