package main

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/sallyport/sallyport/config"
)

// A logHandler writes text or JSON, as the configuration says now: level and
// format change with a reload, under loggers that are in use.
type logHandler struct {
	text, json slog.Handler
	settings   *logSettings
}

type logSettings struct {
	level slog.LevelVar
	json  atomic.Bool
}

var _ slog.Handler = (*logHandler)(nil)

// set takes over the configuration's log block.
func (s *logSettings) set(c config.Log) {
	s.level.Set(c.Level)
	s.json.Store(c.Format == "json")
}

// newLogger returns a logger and what changes it; text and info at first.
func newLogger(w io.Writer) (*slog.Logger, *logSettings) {
	settings := &logSettings{}
	opts := &slog.HandlerOptions{Level: &settings.level}
	return slog.New(&logHandler{
		text:     slog.NewTextHandler(w, opts),
		json:     slog.NewJSONHandler(w, opts),
		settings: settings,
	}), settings
}

func (h *logHandler) current() slog.Handler {
	if h.settings.json.Load() {
		return h.json
	}
	return h.text
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.settings.level.Level()
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.current().Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.text.WithAttrs(attrs), h.json.WithAttrs(attrs), h.settings}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.text.WithGroup(name), h.json.WithGroup(name), h.settings}
}
