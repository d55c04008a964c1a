// Package relay moves bytes once a session is joined: below TLS, a Socket that
// counts, notices silence and can be read without blocking; above it, Pump,
// which copies both ways and passes each end of a stream on as what it was.
package relay
