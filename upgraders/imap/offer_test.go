package imap

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/upgraders"
)

// What is announced before TLS is what the backend offers inside it, less what
// isn't true yet.
func TestAnnounce(t *testing.T) {
	known := upgraders.Capabilities{"IMAP4rev1", "SASL-IR", "LITERAL+", "IDLE", "AUTH=PLAIN", "auth=SCRAM-SHA-256-PLUS", "AUTH=EXTERNAL", "STARTTLS"}
	for _, test := range []struct {
		name   string
		offer  offer
		caps   upgraders.Capabilities
		canTLS bool
		want   string
	}{
		{"required", offer{clear: true, refuseAuth: true}, known, true, "IMAP4rev1 LITERAL+ IDLE STARTTLS LOGINDISABLED"},
		{"allowed", offer{clear: true}, known, true, "IMAP4rev1 SASL-IR LITERAL+ IDLE AUTH=PLAIN STARTTLS"},
		{"no certificate", offer{clear: true, refuseAuth: true}, known, false, "IMAP4rev1 LITERAL+ IDLE LOGINDISABLED"},
		{"unknown", offer{clear: true, refuseAuth: true}, nil, true, "IMAP4rev1 STARTTLS LOGINDISABLED"},
		{"LOGINDISABLED even in TLS", offer{clear: true}, upgraders.Capabilities{"IMAP4rev1", "logindisabled"}, true, "IMAP4rev1 logindisabled STARTTLS"},
		{"once", offer{refuseAuth: true}, upgraders.Capabilities{"IMAP4rev1 LOGINDISABLED", "imap4REV1"}, true, "IMAP4rev1 LOGINDISABLED STARTTLS"},
		{"G-29: no atom", offer{}, upgraders.Capabilities{"IMAP4rev1", "X]\r\n*", "A(B"}, false, "IMAP4rev1"},
	} {
		if got := test.offer.announce(test.caps, test.canTLS); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// M-02, G-11, G-32: capabilities are corrected in all places, and nothing else
// is touched.
func TestCorrect(t *testing.T) {
	inTLS := offer{}
	refuse := offer{clear: true, refuseAuth: true}
	for _, test := range []struct {
		offer    offer
		in, want string
	}{
		{inTLS, "* CAPABILITY IMAP4rev1 STARTTLS IDLE\r\n", "* CAPABILITY IMAP4rev1 IDLE\r\n"},
		{inTLS, "* capability STARTTLS IMAP4rev1\r\n", "* capability IMAP4rev1\r\n"},
		{inTLS, "* CAPABILITY IMAP4rev1 starttls\r\n", "* CAPABILITY IMAP4rev1\r\n"},
		{inTLS, "* CAPABILITY IMAP4rev1 StartTLS\n", "* CAPABILITY IMAP4rev1\n"},
		{inTLS, "*  CAPABILITY\tIMAP4rev1\tSTARTTLS \r\n", "*  CAPABILITY\tIMAP4rev1 \r\n"},
		{inTLS, "* OK [CAPABILITY IMAP4rev1 STARTTLS] ready STARTTLS\r\n", "* OK [CAPABILITY IMAP4rev1] ready STARTTLS\r\n"},
		{inTLS, "* ok [capability IMAP4rev1 STARTTLS AUTH=EXTERNAL]\r\n", "* ok [capability IMAP4rev1]\r\n"},
		{inTLS, "a7 OK [CAPABILITY IMAP4rev1 STARTTLS IDLE] done\r\n", "a7 OK [CAPABILITY IMAP4rev1 IDLE] done\r\n"},
		{inTLS, "a7 NO [CAPABILITY STARTTLS IMAP4rev1] no\r\n", "a7 NO [CAPABILITY IMAP4rev1] no\r\n"},
		{inTLS, "+ [CAPABILITY IMAP4rev1 STARTTLS] go\r\n", "+ [CAPABILITY IMAP4rev1] go\r\n"},
		{inTLS, "* OK [CAPABILITY IMAP4rev1 STARTTLS\r\n", "* OK [CAPABILITY IMAP4rev1\r\n"},
		{inTLS, "* CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-1 AUTH=SCRAM-SHA-1-PLUS auth=scram-sha-256-plus\r\n", "* CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-1\r\n"},
		{offer{passBinding: true}, "* CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-1-PLUS STARTTLS\r\n", "* CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-1-PLUS\r\n"},
		{refuse, "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN STARTTLS\r\n", "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n"},
		{refuse, "* OK [CAPABILITY IMAP4rev1] hi\r\n", "* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\r\n"},
		{refuse, "* CAPABILITY IMAP4rev1 logindisabled\r\n", "* CAPABILITY IMAP4rev1 logindisabled\r\n"},
		{offer{stripReferrals: true}, "a NO [REFERRAL imap://user@imap2.example.org/] elsewhere\r\n", "a NO elsewhere\r\n"},
		{offer{stripReferrals: true}, "a OK [REFERRAL imap://x/]\r\n", "a OK \r\n"},
	} {
		if got, _ := test.offer.correct([]byte(test.in)); string(got) != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
	for _, same := range []string{
		"* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN \r\n",
		"* OK STARTTLS\r\n",
		"* OK [ALERT] CAPABILITY STARTTLS\r\n",
		"* LIST () \"/\" STARTTLS\r\n",
		"* OK [CAPABILITY]\r\n",
		"* OK [\r\n",
		"* OK\r\n",
		"a NO [REFERRAL imap://x/] elsewhere\r\n",
		"CAPABILITY STARTTLS\r\n",
		"\r\n",
		"",
	} {
		if got, _ := inTLS.correct([]byte(same)); string(got) != same {
			t.Errorf("%q was made %q", same, got)
		}
	}
	if _, disabled := inTLS.correct([]byte("* OK [CAPABILITY IMAP4rev1 LoginDisabled] hi\r\n")); !disabled {
		t.Error("LOGINDISABLED was not noticed")
	}
}

// listed reads the capabilities of a line as the most lenient of clients
// would, independently of the code under test.
func listed(line string) []string {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' })
	if len(words) < 2 {
		return nil
	}
	if words[0] == "*" && strings.EqualFold(words[1], "CAPABILITY") {
		return words[2:]
	}
	for i, w := range words[:min(3, len(words))] {
		if strings.EqualFold(w, "[CAPABILITY") && (i == 2 && slices.Contains([]string{"OK", "NO", "BAD", "BYE", "PREAUTH"}, strings.ToUpper(words[1])) || i == 1 && words[0] == "+") {
			list, _, _ := strings.Cut(strings.Join(words[i+1:], " "), "]")
			return strings.Fields(list)
		}
	}
	return nil
}

// STARTTLS is in no capability list, nothing is invented, and a line in which
// nothing is wrong stays as it is.
func FuzzCorrect(f *testing.F) {
	for _, line := range []string{
		"* CAPABILITY IMAP4rev1 STARTTLS AUTH=EXTERNAL\r\n",
		"* OK [CAPABILITY IMAP4rev1 STARTTLS\tAUTH=X-PLUS] hi\r\n",
		"a OK [CAPABILITY STARTTLS]\r\n",
		"+ [CAPABILITY\rSTARTTLS]",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(trimEOL(line), '\n') >= 0 {
			return // a line has one LF
		}
		before := listed(string(line))
		got, _ := offer{}.correct(bytes.Clone(line))
		clean := true
		for _, c := range before {
			c = strings.ToUpper(c)
			clean = clean && c != "STARTTLS" && c != "AUTH=EXTERNAL" && !(strings.HasPrefix(c, "AUTH=") && strings.HasSuffix(c, "-PLUS"))
		}
		for _, c := range listed(string(got)) {
			if strings.EqualFold(c, "STARTTLS") || strings.EqualFold(c, "AUTH=EXTERNAL") {
				t.Fatalf("%q became %q", line, got)
			}
		}
		if clean && before != nil && !bytes.Equal(got, line) {
			t.Fatalf("%q became %q though nothing is wrong in it", line, got)
		}
	})
}
