// Package upgradertest is what every protocol is tested with: dialogues that
// are played through the real gateway on loopback, a check of the contract, and
// a fuzz target. A protocol's own test is a few lines:
//
//	func TestDialogues(t *testing.T) { upgradertest.Run(t, smtp.Protocol()) }
//	func FuzzUpgrade(f *testing.F)   { upgradertest.Fuzz(f, smtp.Protocol()) }
//
// # Scripts
//
// A dialogue is a text file, testdata/NN-name.txt (testdata/PROTOCOL/NN-name.txt in
// a package of several protocols), one case each. It opens with
// a comment that says which property it holds, and which document demands it.
//
//	# RFC 3207, 4.2: what the client learned before TLS is void.
//
// Then the setting, where it isn't the default:
//
//	mode implicit            TLS from the first byte (default: starttls)
//	cleartext allow          a session may go on without TLS (default: refuse)
//	cleartext_auth true      and may send a password (default: the protocol's)
//	host chat.example.org    the only host the client may name; repeatable (default: any)
//	hostname mx.example.org  what the gateway calls itself (default: gw.example.org)
//	certificate none         a listener that has no certificate to serve
//	option NAME=VALUE        one of the protocol's options, by its hcl tag
//	forward xclient          client facts for the backend: xclient, id, webirc=PASSWORD
//	caps LINE                a capability that the backend's probe has learned;
//	                         without any, nothing is known of the backend
//	policy NAME=VALUE        dialogue_timeout, dialogue_bytes, dialogue_commands,
//	                         handshake_timeout, idle_timeout, stall_timeout
//	backend down             nobody listens there (any more)
//	alpn ID                  what the client offers in `tls`; repeatable
//	go-ahead none            the protocol has no go-ahead: TLS follows the request
//	backend first            the backend greets before the gateway can, so it is always
//	                         dialled; what shows B none elsewhere then shows B closed,
//	                         and no word to the backend
//	page PATH=TEXT           what the gateway's own pages show there (web); such a
//	                         listener has no backend, and serves in either mode
//
// Then what happens, in order; C is the client, B the backend:
//
//	C> text     the client sends the text and CRLF; C>- without CRLF
//	C>+ text    the same, in one segment with the next C>: pipelining, injection
//	C< text     the client must see the text and CRLF, and nothing else before; C<- without
//	C<~ regexp  the client must see a line which, without its CRLF, matches as a whole
//	C<~- regexp the same without a line: what begins here and matches
//	B> B< …     the same for the backend
//	tls         the client shakes hands, and verifies the name gw.example.org
//	tls fails   it tries to, and the handshake must fail
//	eof         the client half-closes (close_notify, or FIN); B eof: the backend does
//	closed      the client must see the end of the stream and nothing before it: inside
//	            TLS a close_notify, in the clear FIN or RST; B closed: the backend must,
//	            after the client's eof by FIN and nothing else
//	abort       the client resets the connection; B abort: the backend does
//	aborted     the client must see a stream that breaks off: inside TLS without a
//	            close_notify, in the clear by RST; B aborted: the backend must
//	B none      nobody must have connected to the backend
//	error NAME  the outcome or the reason in the session's log line must be NAME
//
// In every text \r \n \t \0 \\ and \xNN stand for bytes and \(A*600) for 600
// times A; a text that begins with `hex ` is bytes in hexadecimal, without
// CRLF. What neither side was expected to see fails the script at its end, and
// so do a backend that is contacted without a B line, and a dialogue that is
// rejected without an error line.
//
// Each script is played as written and, unless it holds C>+, once more with
// each byte in a write of its own; what C>+ injects is also cut in two at every
// byte. So framing is tested for free.
//
// # Fuzzing
//
// Fuzz plays in memory, some thousand dialogues a second, each whole and in
// pieces. Goroutines make its coverage waver, which Go takes for a reason to
// minimize for a minute, so:
//
//	go test -run '^$' -fuzz FuzzUpgrade -fuzztime 1m -fuzzminimizetime 5x ./upgraders/smtp
package upgradertest
