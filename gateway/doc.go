// Package gateway is the gate itself: listeners, one session from accept to
// the last byte, routes, backends, limits, metrics, reload and drain. It knows
// the contract of package upgraders and no protocol, no configuration file and
// no source of certificates.
//
// session.go is the place to begin: it reads top to bottom like the life of a
// connection, and each step has a file that bears its name.
package gateway
