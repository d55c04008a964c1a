package upgraders

import "io"

// A Dialogue is the cleartext part of a session in a protocol of lines. The
// protocol's own embeds it, and answers the commands.
type Dialogue struct {
	Session *Session
	MaxLine int // of a command, with its end

	// Partings has the last words for an error, "" for one that leaves nobody
	// to speak to. ErrTooMany is among them.
	Partings Answers[string]

	// Told is set when the client was told that TLS is required: see
	// LeftWithoutTLS.
	Told bool

	errors int
}

// maxErrors is how many commands may lead nowhere.
const maxErrors = 10

// Run greets, where the protocol has greetings, and reads commands until the
// client asks for TLS, goes on without it, or is turned away. answer answers
// one; a zero Handover without an error means that the dialogue goes on.
func (d *Dialogue) Run(greeting string, answer func(line []byte) (Handover, error)) (Handover, error) {
	if greeting != "" {
		if err := Say(d.Session.Conn, greeting); err != nil {
			return Handover{}, err
		}
	}
	for {
		line, err := ReadCommand(d.Session.Conn, d.MaxLine)
		if err != nil {
			return d.Leave(d.Partings.To(err), err)
		}
		if h, err := answer(line); err != nil || h.Verdict != HangUp {
			return h, err
		}
	}
}

// Say answers, and the dialogue goes on.
func (d *Dialogue) Say(answer string) (Handover, error) {
	return Handover{}, Say(d.Session.Conn, answer)
}

// Wrong answers what leads nowhere, a few times.
func (d *Dialogue) Wrong(answer string) (Handover, error) {
	if d.errors++; d.errors >= maxErrors {
		return d.Leave(d.Partings.To(ErrTooMany), ErrTooMany)
	}
	return d.Say(answer)
}

// Leave ends the dialogue with words, where there are any.
func (d *Dialogue) Leave(words string, err error) (Handover, error) {
	if words != "" {
		words += "\r\n"
	}
	return Handover{Reply: []byte(words)}, LeftWithoutTLS(d.Told, err)
}

// Say sends one answer, of one line or several, in one write.
func Say(w io.Writer, answer string) error {
	_, err := io.WriteString(w, answer+"\r\n")
	return err
}
