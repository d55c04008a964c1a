log { level = "debug" }
backend "dovecot" {
  servers = ["192.0.2.21:143"]
}
certificate "mail" {
  names = [5]
}
