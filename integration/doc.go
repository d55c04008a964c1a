// Package integration holds the gateway to its word between servers and
// clients that nobody here wrote: Postfix, Dovecot, OpenLDAP and PostgreSQL
// behind it with their own TLS off, and swaks, curl, mbsync, psql, openssl and
// many others before it. All of it is tests; README.md says how to run them.
//
// Each test says which property it holds and names its negative control: the
// same check, run where the property does not hold, which must then be seen to
// fail. A control that is not run is no control.
package integration
