log { level = "info" }
backend "dovecot" {
  servers = ["192.0.2.20:143"]
}
