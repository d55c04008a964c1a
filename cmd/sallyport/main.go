// Sallyport is a gate with two doors for network protocols: it ends TLS, begun
// by STARTTLS or implicit, in front of servers that cannot be given modern TLS
// themselves. Each command has a file that bears its name.
package main

import (
	"io"
	"log"
	"os"
)

func main() {
	// The client of net/http prints there what a server says unasked, and that
	// is nobody's to read.
	log.SetOutput(io.Discard)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
