package relay

import (
	"sync/atomic"
	"time"
)

// A Clock runs out when no socket that shares it has moved a byte for a while.
type Clock struct {
	idle  time.Duration
	start time.Time
	last  atomic.Int64 // time of the last activity, since start
}

// NewClock returns a Clock, wound up. With idle <= 0 it never runs out.
func NewClock(idle time.Duration) *Clock {
	return &Clock{idle: idle, start: time.Now()}
}

func (c *Clock) wind() {
	if c.runs() {
		c.last.Store(int64(time.Since(c.start)))
	}
}

// runs reports whether the clock can run out at all; nil never does.
func (c *Clock) runs() bool { return c != nil && c.idle > 0 }

// end is when the clock runs out if nothing winds it up.
func (c *Clock) end() time.Time {
	return c.start.Add(time.Duration(c.last.Load()) + c.idle)
}
