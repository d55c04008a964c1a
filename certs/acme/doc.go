// Package acme has certificates issued and renewed by an authority that speaks
// ACME (RFC 8555). Names are proved by tls-alpn-01 (RFC 8737), http-01 or, for
// wildcards and for machines that nobody can reach, dns-01.
package acme
