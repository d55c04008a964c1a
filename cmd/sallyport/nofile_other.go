//go:build !unix

package main

// raiseNoFile has nothing to raise where there is no such limit.
func raiseNoFile() uint64 { return 0 }
