certificate "mail" {
  names       = ["imap.example.org"]
  self_signed = true
}
backend "dovecot" {
  servers         = ["192.0.2.20:143"]
  send            = "proxy-v2"
  connect_timeout = 5
  resolve         = "0s"
}
listener "imap" "imap" {
  address    = [":143"]
  strict_sni = "yes"
  backend    = backend.dovecot
}
policy "default" {
  handshake_timeout = "10"
  idle_timeout      = "0s"
  stall_timeout     = "none"
  keepalive         = "-2m"
  drain_timeout     = "1d"
  dialogue {
    timeout  = ["30s"]
    bytes    = "16kB"
    commands = 0
  }
  limits {
    connections    = 0
    pending        = 1.5
    per_ip         = "many"
    pending_per_ip = -1
    rate_per_ip    = "20"
  }
}
policy "huge" {
  dialogue {
    bytes    = 16384
    commands = "x"
  }
  limits {
    connections = 9999999999
    rate_per_ip = "20/h"
  }
}
