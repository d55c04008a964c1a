package gateway

import (
	"net"
	"testing"
)

// 0.0.0.0 and [::] on one port are two sockets, one of each family.
func TestListenOnBothFamilies(t *testing.T) {
	v4, err := Listen("0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer v4.Close()
	_, port, _ := net.SplitHostPort(v4.Addr().String())
	if c, err := net.Dial("tcp", "[::1]:"+port); err == nil {
		c.Close()
		t.Error("0.0.0.0 also listens on IPv6")
	}
	probe, missing := net.Listen("tcp6", "[::1]:0")
	if missing == nil {
		probe.Close()
	}
	v6, err := Listen("[::]:" + port)
	if err == nil {
		v6.Close()
	}
	// A machine without IPv6 says so, and is not given IPv4 instead.
	if (err == nil) != (missing == nil) {
		t.Fatalf("[::] beside 0.0.0.0: %v; IPv6 on this machine: %v", err, missing)
	}
}
