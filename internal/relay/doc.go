// Package relay moves the bytes of a session once it is joined: below TLS a
// Socket, which counts, notices silence and can be read without blocking;
// above it Pump, which copies both ways and passes each end of a stream on as
// what it was.
//
// An end is never made to look better than it was. In TLS a stream ends with
// close_notify (RFC 8446, 6.1; RFC 5246, 7.2.1), and one that merely stops was
// cut; in TCP it ends with FIN, and RST says that it was cut (RFC 9293, 3.10.4
// and 3.10.7). What was cut on one side arrives cut on the other.
//
// A direction that waits holds no buffer: it waits for the socket to become
// readable, borrows one, reads what is there, writes it at once and gives the
// buffer back. It never waits for more.
package relay
