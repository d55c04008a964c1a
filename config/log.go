package config

import "log/slog"

type logBlock struct {
	block
	Level  attr[string] `hcl:"level,optional" default:"info" enum:"debug|info|warn|error" doc:"the least that is logged; sessions are info, a connect-and-close is debug"`
	Format attr[string] `hcl:"format,optional" default:"text" enum:"text|json" doc:"how it is logged, to standard error"`
}

func (b *logBlock) log() Log {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug,
		"info":  slog.LevelInfo,
		"warn":  slog.LevelWarn,
		"error": slog.LevelError,
	}
	return Log{Level: levels[b.Level.Value], Format: b.Format.Value}
}
