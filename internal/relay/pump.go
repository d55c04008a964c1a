package relay

import "net"

// An End is one side of a relayed session.
type End struct {
	Conn   net.Conn // what to read and write: a *tls.Conn, or the Socket itself
	Socket *Socket  // what lies at the bottom of Conn
	Unread []byte   // already read from Conn, not yet passed on
}

// Buffers lends the buffers of all sessions of a process.
type Buffers struct{}

// NewBuffers returns Buffers whose large ones take up to budget bytes in all.
func NewBuffers(budget int64) *Buffers { return &Buffers{} }

// Options of a Pump.
type Options struct {
	Buffers   *Buffers // shared by all sessions; nil: each buffer is made anew
	MaxBuffer int      // the largest buffer a direction may borrow; 0: 256 KiB
}

// An Outcome is how a relayed session ended.
type Outcome string

// The outcomes.
const (
	OK          Outcome = "ok"           // both streams ended as they should
	ClientGone  Outcome = "client_gone"  // the client broke, or left without close_notify
	BackendGone Outcome = "backend_gone" // the backend broke
	Idle        Outcome = "idle"
	Stalled     Outcome = "stalled" // a peer took no bytes
	Shutdown    Outcome = "shutdown"
)

// A Result is an Outcome and the error behind it, nil for OK.
type Result struct {
	Outcome Outcome
	Err     error
}

// Pump copies both ways until both streams have ended, or one broke. It closes
// both sockets.
func Pump(client, backend End, opts Options) Result { return Result{Outcome: OK} }
