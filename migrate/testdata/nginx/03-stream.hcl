# Made by `sallyport import nginx 03-stream.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 03-stream.conf:1: worker_processes is not carried over: there is one process, on all CPUs
# 03-stream.conf:2: pid is not carried over: systemd knows the process without a file
# 03-stream.conf:3: load_module is not carried over: all protocols are in the binary
# 03-stream.conf:5: http is not carried over: web servers stay with nginx
# 03-stream.conf:100: stream server 3306: this server is not carried over: without ssl it passes
#   bytes through as they are; where the clients speak a protocol that sallyport knows, write a
#   listener for it, with a certificate
# 03-stream.conf:104: stream server 53: listen 53 udp is not carried over: only TCP is spoken
# 03-stream.conf:105: stream server 53: this server is not carried over: there is no address to
#   listen on
# 03-stream.conf:109: stream server 5000-5010: listen 5000-5010 is not carried over: a listener
#   takes host:port, one port a time
# 03-stream.conf:108: stream server 5000-5010: this server is not carried over: there is no address
#   to listen on
# 03-stream.conf:22: stream: max_fails of 10.0.0.21:143 is not carried over: a server that refuses
#   is passed over by itself; a block probe in the backend asks before clients do
# 03-stream.conf:22: stream: fail_timeout of 10.0.0.21:143 is not carried over: a server that
#   refuses is passed over by itself; a block probe in the backend asks before clients do
# 03-stream.conf:25: stream: server 10.0.0.24:143 down: a server that is down is left out
# 03-stream.conf:26: stream: server 10.0.0.22:143 is not carried over: the server is there already
# 03-stream.conf:27: stream: server backend.internal is not carried over: a server is host:port or
#   unix:/path
# 03-stream.conf:38: stream: random two least_conn: servers take turns instead
# 03-stream.conf:14: stream: log_format is not carried over: each session has a line in the log,
#   with its own keys
# 03-stream.conf:15: stream: access_log is not carried over: each session has a line in the log,
#   with its own keys
# 03-stream.conf:16: stream: limit_conn_zone is not carried over: sessions of one address are
#   bounded by policy.limits.per_ip
# 03-stream.conf:17: stream: resolver is not carried over: the system's resolvers are asked; a block
#   resolver names others

certificate "imap" {
  cert_file = "/etc/ssl/imap.pem"
  key_file  = "/etc/ssl/imap.key"
}

policy "imaps" {
  handshake_timeout = "20s"
  idle_timeout      = "35m"
}

backend "imap_backends" {
  balance         = "least_conn"
  send            = "proxy-v1"
  connect_timeout = "3s"

  server "10.0.0.21:143" {
    weight = 3
  }

  server "10.0.0.22:143" {
    max_connections = 500
  }

  server "10.0.0.23:143" {
    backup = true
  }
}

# 03-stream.conf:53: limit_conn is not carried over: sessions of one address are bounded by
#   policy.limits.per_ip
listener "imap" "imaps" {
  address = ["0.0.0.0:993", "[::]:993"]
  certs   = [certificate.imap]
  policy  = policy.imaps
  backend = backend.imap_backends
}

certificate "db" {
  cert_file = "/etc/ssl/db.pem"
  key_file  = "/etc/ssl/db.key"
}

backend "postgres" {
  servers = ["db1.internal:5432", "db2.internal:5432"]
  balance = "source"

  server "unix:/run/postgresql/.s.PGSQL.5432" {
    backup = true
  }
}

# 03-stream.conf:61: ssl_dhparam is not carried over: key exchange is X25519MLKEM768 first, then
#   what crypto/tls has
# 03-stream.conf:62: proxy_download_rate is not carried over: rates are not limited
listener "tcp" "tcp_15432" {
  address = ["0.0.0.0:15432"]
  certs   = [certificate.db]
  backend = backend.postgres
}

backend "ldap" {
  servers = ["10.0.0.31:636"]

  tls {
    mode        = "implicit"
    ca_file     = "/etc/ssl/corp.pem"
    server_name = "ldap.corp.example"
  }
}

# 03-stream.conf:74: proxy_ssl_certificate is not carried over: the gateway shows servers no
#   certificate of its own
listener "tcp" "ldaps" {
  address = ["0.0.0.0:636"]
  certs   = [certificate.imap]
  backend = backend.ldap
}

backend "tcp_6697" {
  servers = ["127.0.0.1:6667"]
  send    = "proxy-v2"

  tls {
    mode   = "implicit"
    verify = "none"
  }
}

# 03-stream.conf:83: proxy_bind $remote_addr transparent: the server no longer sees the client's
#   address as that of the connection, but is told of it: let it accept PROXY v2 from the gateway,
#   or nobody gets through
listener "tcp" "tcp_6697" {
  address = ["0.0.0.0:6697"]
  certs   = [certificate.imap]
  backend = backend.tcp_6697
}

# policy "pop3_10110" {
#   proxy_protocol {
#     from = ["192.0.2.0/24"]
#   }
# }

# backend "pop3_10110" {
#   servers = ["10.0.0.25:110"]
# }

# 03-stream.conf:95: deny is not carried over: who may connect is not limited by address: put the
#   rules into the firewall
# The listener is a comment, because deny would no longer guard it: settle that first, then take the
#   # away.
# listener "pop3" "pop3_10110" {
#   address = ["0.0.0.0:10110"]
#   mode    = "implicit"
#   certs   = [certificate.imap]
#   policy  = policy.pop3_10110
#   backend = backend.pop3_10110
# }
