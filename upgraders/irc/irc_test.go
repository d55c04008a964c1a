package irc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
	"github.com/sallyport/sallyport/upgraders"
	"github.com/sallyport/sallyport/upgraders/upgradertest"
)

func TestDialogues(t *testing.T) { upgradertest.Run(t, Protocol()) }

func FuzzUpgrade(f *testing.F) { upgradertest.Fuzz(f, Protocol()) }

// A line is taken apart as servers do it: tags, source and blanks are passed
// over, so that no verb hides behind them.
func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"nick u1":                     "NICK|u1|",
		"  @a=b;c  :src   webirc a b": "WEBIRC|a b|",
		":src CAP * LS * :a b=c":      "CAP|* LS *|a b=c",
		"USER a 0 * :x :y":            "USER|a 0 *|x :y",
		"QUIT :":                      "QUIT||",
		"@only-tags":                  "||",
		"":                            "||",
		":PRIVMSG":                    "||",
		"CAP\tLS":                     "CAP|LS|",
	} {
		m := parse(line)
		if got := m.verb + "|" + strings.Join(m.params, " ") + "|" + m.last; got != want {
			t.Errorf("parse(%q) = %q, want %q", line, got, want)
		}
	}
}

// The address cannot begin the last parameter, and is the one that people
// write.
func TestWebirc(t *testing.T) {
	for client, want := range map[string]string{
		"192.0.2.1:1":          "WEBIRC pw sallyport 192.0.2.1 192.0.2.1 :secure",
		"[::ffff:192.0.2.1]:1": "WEBIRC pw sallyport 192.0.2.1 192.0.2.1 :secure",
		"[::1]:1":              "WEBIRC pw sallyport 0::1 0::1 :secure",
		"[fe80::1%eth0]:1":     "WEBIRC pw sallyport fe80::1 fe80::1 :secure",
	} {
		if got := webirc("pw", netip.MustParseAddrPort(client), true); got != want {
			t.Errorf("%s: %q", client, got)
		}
	}
	if got := webirc("pw", netip.AddrPort{}, false); got != "WEBIRC pw sallyport 255.255.255.255 255.255.255.255" {
		t.Errorf("unix socket: %q", got)
	}
}

// An option that means nothing is refused, with what to write.
func TestOptions(t *testing.T) {
	for _, o := range []*options{{STSPort: -1}, {STSPort: 65536}, {STSDuration: "soon"}, {STSDuration: "-1h"}} {
		if _, err := newUpgrader(o); err == nil || !strings.Contains(err.Error(), "write") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if u, err := newUpgrader(&options{STSDuration: "0s"}); err != nil || u.(*upgrader).duration != "0" {
		t.Errorf("0s: %+v, %v", u, err)
	}
}

// serverOf plays a server that says lines once it has heard one, and returns
// what it heard.
func serverOf(t *testing.T, says string) (*wire.Conn, func() []string) {
	gateway, server := net.Pipe()
	gateway.SetDeadline(time.Now().Add(10 * time.Second))
	heard := make(chan []string, 1)
	go func() {
		in := bufio.NewScanner(server)
		var lines []string
		if in.Scan() {
			lines = append(lines, in.Text())
			go io.WriteString(server, strings.ReplaceAll(says, "\n", "\r\n"))
		}
		for in.Scan() {
			lines = append(lines, in.Text())
		}
		heard <- lines
	}()
	return wire.NewConn(gateway), func() []string { gateway.Close(); return <-heard }
}

// The capabilities come in as many lines as they like, or not at all; an ERROR
// is a server that does not serve.
func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		want []string
		err  error
	}{
		"one line": {":b NOTICE * :hello\n:b CAP * LS :a b=c\n", []string{"a", "b=c"}, nil},
		"several":  {":b CAP * LS * :a\n:b CAP * LS :b\n", []string{"a", "b"}, nil},
		"none":     {":b CAP * LS :\n", []string{}, nil},
		"old":      {":b 421 * CAP :Unknown command\n", []string{}, nil},
		"refused":  {"ERROR :Closing link\n", nil, upgraders.ErrTryNext},
		"endless":  {strings.Repeat(":b NOTICE * :x\n", maxLines), nil, upgraders.ErrBackend},
	} {
		t.Run(name, func(t *testing.T) {
			conn, heard := serverOf(t, c.says)
			got, err := probe(context.Background(), &upgraders.Link{Backend: conn})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || !slices.Equal(got, c.want) {
				t.Errorf("%q, %v", got, err)
			}
			if lines := heard(); lines[0] != "CAP LS 302" {
				t.Errorf("heard %q", lines)
			}
		})
	}
}

// The client side: 670 and nothing behind it.
func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		err  error
	}{
		"offered":   {":b NOTICE * :hello\n:b 670 * :go\n", nil},
		"refused":   {":b 691 * :no\n", upgraders.ErrNotOffered},
		"unknown":   {":b 421 * STARTTLS :Unknown command\n", upgraders.ErrNotOffered},
		"injection": {":b 670 * :go\n:b 001 x :Welcome\n", upgraders.ErrBackend},
		"endless":   {strings.Repeat(":b NOTICE * :x\n", maxLines), upgraders.ErrBackend},
	} {
		t.Run(name, func(t *testing.T) {
			conn, heard := serverOf(t, c.says)
			if err := request(context.Background(), conn, ""); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Error(err)
			}
			if lines := heard(); !slices.Equal(lines, []string{"STARTTLS"}) {
				t.Errorf("heard %q", lines)
			}
		})
	}
}
