package relay

import (
	"io"
	"time"
)

// Copy carries one stream, from src to its end, and closes both sockets. It is
// for connections whose protocol uses one direction alone (RFC 959, 3.2: a data
// connection of FTP); what dst sends is read away at the end and never looked
// at. Deadlines that were set explicitly are lifted; idle and stall times are
// those of the sockets.
//
// over is called once: with nil when src ended as it should, dst was given all
// of it, and either was told the end; with the error when one of them broke.
// Both are reset then, in TLS as well: here no last words can follow that were
// worth an end which looks like one to peers that do without close_notify.
// After over, Copy only waits for dst to close, and not long.
func Copy(dst, src End, opts Options, over func(error)) {
	d := direction{src: &src, dst: &dst}
	d.prepare(opts)
	dst.Socket.SetDeadline(time.Time{})
	if _, err := d.copy(); err != io.EOF {
		src.Socket.Abort()
		dst.Socket.Abort()
		over(err)
		return
	}
	dst.closeWrite(func() { dst.Socket.SetWriteDeadline(time.Time{}) })
	// A TLS peer that has said its own end may wait for ours.
	src.closeWrite(func() { src.Socket.SetWriteDeadline(time.Now().Add(flushTime)) })
	over(nil)
	drain(dst.Socket)
	src.Socket.Close()
	dst.Socket.Close()
}
