# Made by `sallyport import stunnel 05-lost.conf`. What could not be carried over is named beside
#   the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 05-lost.conf:2: chroot is not carried over: the systemd unit confines the process
# 05-lost.conf:3: engine is not carried over: keys come from PEM files
# 05-lost.conf:4: engineCtrl is not carried over: keys come from PEM files
# 05-lost.conf:5: fips is not carried over: set GODEBUG=fips140=on in the environment of the process
#   instead
# 05-lost.conf:6: RNDfile is not carried over: the kernel's random numbers are used
# 05-lost.conf:8: nonsense is not carried over: the option is not known
# 05-lost.conf:13: [postgres]: this service is not carried over: protocol = pgsql is not spoken yet:
#   see sallyport protocols
# 05-lost.conf:19: [samba]: this service is not carried over: protocol = cifs has no counterpart
# 05-lost.conf:80: [keys]: this service is not carried over: PSKsecrets lets clients in by shared
#   keys, which TLS of Go does not have; give it a certificate, and clients theirs (client_auth)
# 05-lost.conf:89: [inetd]: this service is not carried over: it has no accept, as in inetd mode;
#   sallyport listens itself, or takes sockets from systemd
# 05-lost.conf:93: [nat]: this service is not carried over: transparent = destination finds the
#   server by iptables; name it in a backend
# 05-lost.conf:115: [orphan]: sni = inetd:x.example.org is not carried over: there is no listener
#   [inetd] to add a route to
# 05-lost.conf:114: [orphan]: this service is not carried over: it is a part of no listener
# 05-lost.conf:72: [p12]: cert = /etc/stunnel/server.p12 is not carried over: write it as PEM:
#   openssl pkcs12 -in /etc/stunnel/server.p12 -out server.pem -nodes
# 05-lost.conf:69: [p12]: this listener is not carried over: without a certificate in a PEM file
#   there is no TLS
# 05-lost.conf:77: [token]: engineId is not carried over: keys come from PEM files
# 05-lost.conf:78: [token]: the key in an engine is not carried over: keys come from PEM files
# 05-lost.conf:74: [token]: this listener is not carried over: without a certificate in a PEM file
#   there is no TLS
# 05-lost.conf:85: [bare]: this listener is not carried over: without a certificate in a PEM file
#   there is no TLS
# 05-lost.conf:98: [nowhere]: this listener is not carried over: there is no server to send its
#   sessions to
# 05-lost.conf:103: [where]: accept = frobnicate is not carried over: a listener takes host:port,
#   and the port as a number
# 05-lost.conf:104: [where]: accept = /run/stunnel.sock is not carried over: a listener takes
#   host:port, and the port as a number
# 05-lost.conf:105: [where]: accept = 70000 is not carried over: a listener takes host:port, and the
#   port as a number
# 05-lost.conf:102: [where]: this listener is not carried over: there is no address left to listen
#   on
# 05-lost.conf:109: [twice]: the address 0.0.0.0:636 is not carried over: another listener has it
# 05-lost.conf:109: [twice]: this listener is not carried over: there is no address left to listen
#   on

log {
  level = "debug"
}

certificate "stunnel" {
  cert_file = "/etc/stunnel/server.pem"
  key_file  = "/etc/stunnel/server.pem"
}

backend "ldaps" {
  servers = ["127.0.0.1:389"]
}

# 05-lost.conf:44: TIMEOUTconnect = soon is not carried over: it is no time that can pass
# 05-lost.conf:26: ciphersuites is not carried over: those of TLS 1.3 are all offered
# 05-lost.conf:27: curves is not carried over: key exchange is X25519MLKEM768 first, then what
#   crypto/tls has
# 05-lost.conf:28: securityLevel is not carried over: it is a setting of OpenSSL; TLS is 1.2 and up
#   with forward secrecy
# 05-lost.conf:29: sessionCacheSize is not carried over: sessions are resumed by tickets, which need
#   no cache
# 05-lost.conf:30: ticketKeySecret is not carried over: keys of tickets are made in memory and
#   renewed
# 05-lost.conf:31: ticketMacSecret is not carried over: keys of tickets are made in memory and
#   renewed
# 05-lost.conf:32: renegotiation is not carried over: a TLS session is not negotiated again: clients
#   connect again
# 05-lost.conf:33: retry = yes is not carried over: it cannot be chosen
# 05-lost.conf:35: local is not carried over: the source address of connections to servers is chosen
#   by the system: set src on the route (ip route)
# 05-lost.conf:37: socket = a:SO_BINDTODEVICE=eth0 is not carried over: options of sockets cannot be
#   chosen, save policy.keepalive
# 05-lost.conf:38: options = NO_TICKET is not carried over: it is an option of OpenSSL
# 05-lost.conf:41: options = -NO_SSLv3 is not carried over: it is an option of OpenSSL
# 05-lost.conf:42: TIMEOUTbusy is not carried over: each phase has a bound of its own:
#   handshake_timeout, dialogue, stall_timeout in a policy
# 05-lost.conf:43: TIMEOUTidle = 0 is not carried over: it is no time that can pass
listener "tcp" "ldaps" {
  address = ["0.0.0.0:636"]
  certs   = [certificate.stunnel]
  backend = backend.ldaps
}

backend "old" {
  servers = ["127.0.0.1:143"]
}

# 05-lost.conf:50: the choice of TLS versions is not carried over: clients were to use TLS 1.0,
#   which is broken (RFC 8996); here it is TLS 1.2 and up, and clients that know no more are turned
#   away
listener "imap" "old" {
  address = ["0.0.0.0:10993"]
  mode    = "implicit"
  certs   = [certificate.stunnel]
  backend = backend.old
}

# 05-lost.conf:57: the choice of TLS versions: there is no highest version: TLS 1.3 is spoken with
#   clients that know it
# 05-lost.conf:57: the choice of TLS versions: TLS 1.0 is broken (RFC 8996) and spoken only where
#   cleartext is allowed; here it is TLS 1.2 and up
listener "imap" "older" {
  address = ["0.0.0.0:11993"]
  mode    = "implicit"
  certs   = [certificate.stunnel]
  backend = backend.old
}

# 05-lost.conf:63: sslVersion = SSLv4 is not carried over: the version is not known
# 05-lost.conf:67: the choice of TLS versions is not carried over: no version is left; here it is
#   TLS 1.2 and up
listener "imap" "none" {
  address = ["0.0.0.0:12993"]
  mode    = "implicit"
  certs   = [certificate.stunnel]
  backend = backend.old
}
