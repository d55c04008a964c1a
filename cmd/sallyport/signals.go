package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// hangUp asks for a reload; every other signal that is caught asks to stop.
const hangUp = syscall.SIGHUP

// A signalQueue holds the signals that are not yet obeyed.
type signalQueue struct{ c chan os.Signal }

func stopSignals() *signalQueue {
	q := &signalQueue{make(chan os.Signal, 4)}
	signal.Notify(q.c, hangUp, syscall.SIGTERM, syscall.SIGINT)
	return q
}

func (q *signalQueue) stop() { signal.Stop(q.c) }

// What systemd is told (sd_notify(3)). Where there is no systemd, nobody is.
const (
	sdReady     = daemon.SdNotifyReady
	sdReloading = daemon.SdNotifyReloading
	sdStopping  = daemon.SdNotifyStopping
	sdWatchdog  = daemon.SdNotifyWatchdog

	// A drain may take longer than TimeoutStopSec; each message buys a
	// minute and the next comes well before it is over.
	sdExtend       = "EXTEND_TIMEOUT_USEC=60000000"
	extendInterval = 20 * time.Second
)

func notify(state string) {
	if state == sdReloading {
		// Type=notify-reload compares it with its own clock.
		state += "\n" + daemon.SdNotifyMonotonicUsec()
	}
	// Without a manager there is nobody to tell; with a broken one, nobody
	// who could listen.
	_, _ = daemon.SdNotify(false, state)
}

// A watchdog ticks when systemd wants a sign of life; never where it doesn't.
type watchdog struct {
	c      <-chan time.Time
	ticker *time.Ticker
}

func newWatchdog() watchdog {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		return watchdog{}
	}
	t := time.NewTicker(interval / 2)
	return watchdog{c: t.C, ticker: t}
}

func (w watchdog) stop() {
	if w.ticker != nil {
		w.ticker.Stop()
	}
}
