package xmpp

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
)

// serverOf plays a server that says something when it has heard a tag, and so
// on, and returns what it heard.
func serverOf(t *testing.T, says ...string) (*wire.Conn, func() string) {
	gateway, server := net.Pipe()
	t.Cleanup(func() { gateway.Close() })
	gateway.SetDeadline(time.Now().Add(10 * time.Second))
	heard := make(chan string, 1)
	go func() {
		defer server.Close()
		var all strings.Builder
		b := make([]byte, 1<<10)
		for {
			n, err := server.Read(b)
			all.Write(b[:n])
			if err != nil {
				heard <- all.String()
				return
			}
			if len(says) > 0 {
				go io.WriteString(server, says[0])
				says = says[1:]
			}
		}
	}()
	return wire.NewConn(gateway), func() string { gateway.Close(); return <-heard }
}

const (
	serverHeader = "<?xml version='1.0'?>\n<stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client' id='x' version='1.0'>"
	asked        = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='a&lt;b' version='1.0'>"
)

func features(children ...string) string {
	return serverHeader + "<stream:features>" + strings.Join(children, "") + "</stream:features>"
}

func failed(condition string) string {
	return serverHeader + "<stream:error><text>x</text><" + condition + " xmlns='" + nsErrors + "'/></stream:error></stream:stream>"
}

const (
	withTLS    = "<starttls xmlns='" + nsTLS + "'/>"
	mustTLS    = "<starttls xmlns='" + nsTLS + "'><required/></starttls>"
	mechanisms = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms>"
	onlyPlus   = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism></mechanisms>"
)

// A server serves when it answers a stream, whether or not it knows the host.
func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		want []string
		err  error
	}{
		"features":  {features(withTLS, mechanisms), []string{"starttls", "mechanisms SCRAM-SHA-1-PLUS SCRAM-SHA-1"}, nil},
		"nothing":   {serverHeader + " <stream:features/>", nil, nil},
		"unknown":   {failed("host-unknown"), nil, nil},
		"full":      {failed("resource-constraint"), nil, upgraders.ErrTryNext},
		"other":     {failed("policy-violation"), nil, upgraders.ErrBackend},
		"old":       {strings.Replace(serverHeader, " version='1.0'>", ">", 1), nil, upgraders.ErrBackend},
		"garbage":   {"220 ESMTP\r\n", nil, upgraders.ErrSyntax},
		"no stream": {"<html>", nil, upgraders.ErrBackend},
		"endless":   {serverHeader + "<stream:features>" + strings.Repeat("<a/>", maxInside/4), nil, wire.ErrTooLong},
		"not ended": {serverHeader + "</stream:stream>", nil, upgraders.ErrBackend},
	} {
		t.Run(name, func(t *testing.T) {
			conn, heard := serverOf(t, c.says)
			got, err := Protocol().Probe(context.Background(), &upgraders.Link{Backend: conn, Facts: upgraders.Facts{Name: "a<b"}})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || !slices.Equal(got, c.want) {
				t.Errorf("%q, %v", got, err)
			}
			want := asked
			if err == nil && name != "unknown" {
				want += quit
			}
			if said := heard(); said != want {
				t.Errorf("heard %q", said)
			}
		})
	}
}

// The client side: proceed, and nothing behind it.
func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		says []string
		err  error
	}{
		"offered":   {[]string{features(withTLS), "\n<proceed xmlns='" + nsTLS + "'/>"}, nil},
		"refused":   {[]string{features(withTLS), failure}, upgraders.ErrNotOffered},
		"stripped":  {[]string{features(mechanisms)}, upgraders.ErrNotOffered},
		"not TLS's": {[]string{features(withTLS), "<proceed/>"}, upgraders.ErrBackend},
		"no answer": {[]string{features(withTLS), "<iq/>"}, upgraders.ErrBackend},
		"the end":   {[]string{features(withTLS), quit}, upgraders.ErrBackend},
		"injection": {[]string{features(withTLS), "<proceed xmlns='" + nsTLS + "'/><x/>"}, upgraders.ErrBackend},
		"unknown":   {[]string{failed("host-unknown")}, errUnknownHost},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := serverOf(t, c.says...)
			_, err := Protocol().AskTLS(context.Background(), conn, "a<b")
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Error(err)
			}
		})
	}
}

// An audit finds why nobody can log in, and nothing where one can.
func TestAudit(t *testing.T) {
	for name, c := range map[string]struct {
		says    string
		binding bool
		want    []string // each in the finding of its place
	}{
		"fine":       {features(withTLS, strings.Replace(mechanisms, "-PLUS", "-X", 1)), false, nil},
		"same key":   {features(mechanisms), true, nil},
		"binding":    {features(mechanisms), false, []string{"offers SCRAM-SHA-1-PLUS"}},
		"required":   {features(mustTLS), false, []string{"wants TLS"}},
		"only plus":  {features(onlyPlus), false, []string{"no login that works", "offers SCRAM-SHA-1-PLUS"}},
		"other host": {failed("host-unknown"), false, []string{"does not serve a<b"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := serverOf(t, c.says)
			link := &upgraders.Link{Backend: conn, Facts: upgraders.Facts{Name: "a<b"}, PassBinding: c.binding}
			got, err := Protocol().Audit(context.Background(), link, upgraders.Told{})
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("%+v, %v", got, err)
			}
			for i, f := range got {
				if !strings.Contains(f.What, c.want[i]) || f.Mend == "" {
					t.Errorf("%+v", f)
				}
			}
		})
	}
	conn, _ := serverOf(t, features(mustTLS))
	if got, err := ServerProtocol().Audit(context.Background(), &upgraders.Link{Backend: conn}, upgraders.Told{}); len(got) > 0 || err != nil {
		t.Errorf("servers need no login: %+v, %v", got, err)
	}
}
