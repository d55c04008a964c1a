listener "imap" "imap" {
  address = [":143"
  backend = backend.dovecot
}
