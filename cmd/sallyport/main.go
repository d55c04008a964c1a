// Sallyport is a gate with two doors for network protocols: it ends TLS, begun
// by STARTTLS or implicit, in front of servers that cannot be given modern TLS
// themselves. Each command has a file that bears its name.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
