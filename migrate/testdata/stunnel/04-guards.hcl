# Made by `sallyport import stunnel 04-guards.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

certificate "stunnel" {
  cert_file = "/etc/stunnel/server.pem"
  key_file  = "/etc/stunnel/server.pem"
}

backend "plain" {
  servers = ["127.0.0.1:143"]
}

listener "imap" "plain" {
  address = ["127.0.0.1:993"]
  certs   = [certificate.stunnel]
  backend = backend.plain
}

tls "request" {
  client_auth {
    mode    = "request"
    ca_file = "/etc/stunnel/ca.pem"
  }
}

listener "imap" "request" {
  address = ["127.0.0.2:993"]
  certs   = [certificate.stunnel]
  tls     = tls.request
  backend = backend.plain
}

tls "require" {
  client_auth {
    mode    = "require"
    ca_file = "/etc/stunnel/ca.pem"
  }
}

# 04-guards.conf:19: redirect is not carried over: a client whose certificate is no good is turned
#   away
listener "imap" "require" {
  address = ["127.0.0.3:993"]
  certs   = [certificate.stunnel]
  tls     = tls.require
  backend = backend.plain
}

tls "pinned" {
  client_auth {
    mode    = "require"
    ca_file = "/etc/stunnel/clients.pem"
  }
}

# 04-guards.conf:24: verifyPeer: every certificate in ca_file is taken, and if one is an
#   authority's, those it has issued as well: have only the clients' own in it
listener "imap" "pinned" {
  address = ["127.0.0.4:993"]
  certs   = [certificate.stunnel]
  tls     = tls.pinned
  backend = backend.plain
}

# 04-guards.conf:30: the list of client certificates is not carried over: stunnel wants each
#   client's own certificate in CAfile, besides a chain that is good; here every certificate is
#   taken that an authority in ca_file has issued
# The listener is a comment, because the list of client certificates would no longer guard it:
#   settle that first, then take the # away.
# listener "imap" "pinned-chain" {
#   address = ["127.0.0.5:993"]
#   certs   = [certificate.stunnel]
#   tls     = tls.pinned
#   backend = backend.plain
# }

# tls "directory" {
#   client_auth {
#     mode    = "require"
#     ca_file = "clients.pem"
#   }
# }

# 04-guards.conf:37: CApath is not carried over: authorities come from one file: write all
#   certificates of the directory into it, and its name as ca_file
# The listener is a comment, because CApath would no longer guard it: settle that first, then take
#   the # away.
# listener "imap" "directory" {
#   address = ["127.0.0.6:993"]
#   certs   = [certificate.stunnel]
#   tls     = tls.directory
#   backend = backend.plain
# }

# 04-guards.conf:44: checkHost is not carried over: who the certificate of a client names is not
#   looked at
# 04-guards.conf:45: checkEmail is not carried over: who the certificate of a client names is not
#   looked at
# 04-guards.conf:46: CRLpath is not carried over: revoked certificates of clients are not told from
#   good ones
# 04-guards.conf:47: OCSPaia is not carried over: revoked certificates of clients are not told from
#   good ones
# The listener is a comment, because checkHost, checkEmail, CRLpath and OCSPaia would no longer
#   guard it: settle that first, then take the # away.
# listener "imap" "names" {
#   address = ["127.0.0.7:993"]
#   certs   = [certificate.stunnel]
#   tls     = tls.require
#   backend = backend.plain
# }

# 04-guards.conf:52: libwrap is not carried over: /etc/hosts.allow and hosts.deny are not read: put
#   the rules into the firewall
# The listener is a comment, because libwrap would no longer guard it: settle that first, then take
#   the # away.
# listener "imap" "wrapped" {
#   address = ["127.0.0.8:993"]
#   certs   = [certificate.stunnel]
#   backend = backend.plain
# }

# 04-guards.conf:57: ident is not carried over: users are not asked for by IDENT
# The listener is a comment, because ident would no longer guard it: settle that first, then take
#   the # away.
# listener "imap" "ident" {
#   address = ["127.0.0.9:993"]
#   certs   = [certificate.stunnel]
#   backend = backend.plain
# }

# 04-guards.conf:62: verify is not carried over: neither CAfile nor CApath says who signs the
#   certificates of clients: write those of the authorities into one file, and its name as ca_file
# The listener is a comment, because verify would no longer guard it: settle that first, then take
#   the # away.
# listener "imap" "nobody" {
#   address = ["127.0.0.10:993"]
#   certs   = [certificate.stunnel]
#   tls     = tls.directory
#   backend = backend.plain
# }
