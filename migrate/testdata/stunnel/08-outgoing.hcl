# Made by `sallyport import stunnel 08-outgoing.conf`. What could not be carried over is named
#   beside the block it belongs to. Before you run it: sallyport check --live -c THIS-FILE

# 08-outgoing.conf:2: [out]: this service is not carried over: with client = yes stunnel takes
#   cleartext and speaks TLS to the server, outwards; sallyport ends the TLS of clients that come in
