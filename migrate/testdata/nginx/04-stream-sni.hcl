# Made by `sallyport import nginx 04-stream-sni.conf`. What could not be carried over is named
#   beside the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 04-stream-sni.conf:30: stream server 443: this server is not carried over: with ssl_preread it
#   chooses by SNI and leaves the TLS to the servers behind; sallyport ends the TLS itself: with the
#   certificates here it is a listener with a route for each name, without them it stays with nginx
# 04-stream-sni.conf:35: stream server 995: the certificate in a variable, an engine or the
#   configuration is not carried over: it comes from PEM files; of several the names in them choose
# 04-stream-sni.conf:33: stream server 995: this listener is not carried over: without a certificate
#   in a PEM file there is no TLS
# 04-stream-sni.conf:41: stream server 994: the certificate in a variable, an engine or the
#   configuration is not carried over: it comes from PEM files; of several the names in them choose
# 04-stream-sni.conf:43: stream server 994: proxy_pass $preread is not carried over: the server is
#   chosen by a variable; here SNI chooses, by routes (map $ssl_server_name is carried over)
# 04-stream-sni.conf:39: stream server 994: this listener is not carried over: without a certificate
#   in a PEM file there is no TLS

certificate "example_net" {
  cert_file = "/etc/letsencrypt/live/example.net/fullchain.pem"
  key_file  = "/etc/letsencrypt/live/example.net/privkey.pem"
}

certificate "corp_example" {
  cert_file = "/etc/letsencrypt/live/corp.example/fullchain.pem"
  key_file  = "/etc/letsencrypt/live/corp.example/privkey.pem"
}

backend "imaps" {
  servers = ["10.0.0.41:143"]
}

backend "net" {
  servers = ["10.0.0.43:143"]
}

backend "corp" {
  servers = ["10.0.0.42:143"]
}

backend "rest" {
  servers = ["10.0.0.44:143", "10.0.0.45:143"]
}

# 04-stream-sni.conf:5: the line *.corp.example corp of map: * stands for one label: name deeper
#   ones, too
# 04-stream-sni.conf:7: the line .example.net net of map: * stands for one label: name deeper ones,
#   too
# 04-stream-sni.conf:8: the line ~^mx\d+ rest of map is not carried over: a route takes a name, or
#   *.domain
# 04-stream-sni.conf:9: bad.example.org nowhere is not carried over: nowhere is neither a group of
#   servers nor host:port
listener "imap" "imaps" {
  address = ["0.0.0.0:993"]
  certs   = [certificate.example_net, certificate.corp_example]

  route {
    sni     = ["imap.corp.example"]
    backend = backend.imaps
  }

  route {
    sni     = ["example.net", "*.example.net"]
    backend = backend.net
  }

  route {
    sni     = ["*.corp.example"]
    backend = backend.corp
  }

  route {
    backend = backend.rest
  }
}
