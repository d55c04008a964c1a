package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminHandler serves what may be known without asking who asks: figures and
// health, read only.
//
//	/metrics  Prometheus and OpenMetrics text
//	/healthz  200 while the process works at all (liveness)
//	/readyz   200 while it can serve; 503 with the reason when not (readiness)
func adminHandler(reg *prometheus.Registry, ready func() error, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		Registry:            reg,
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4,
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
	})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			plain(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		plain(w, http.StatusOK, "ready")
	})
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// An adminServer is a bound address of the handler. The zero address, where
// admin.address is not configured, binds nothing.
type adminServer struct {
	address string // as configured
	ln      net.Listener
	srv     *http.Server
	log     *slog.Logger
}

// bindAdmin binds the address, so that the error of one that cannot be had
// comes before anything else is changed. It serves once serve is called.
func bindAdmin(address string, handler http.Handler, log *slog.Logger) (*adminServer, error) {
	a := &adminServer{address: address, log: log}
	if address == "" {
		return a, nil
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("admin: %w; choose another admin.address", err)
	}
	a.ln = ln
	a.srv = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return a, nil
}

// addr returns where it listens, empty for nowhere.
func (a *adminServer) addr() string {
	if a.ln == nil {
		return ""
	}
	return a.ln.Addr().String()
}

func (a *adminServer) serve() {
	if a.ln == nil {
		return
	}
	a.log.Info("listening", "listener", "admin", "address", a.addr())
	go a.accept()
}

func (a *adminServer) accept() {
	if err := a.srv.Serve(a.ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("admin server ended", "error", err)
	}
}

// close gives running requests a moment to end.
func (a *adminServer) close() {
	if a.ln == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if a.srv.Shutdown(ctx) != nil {
		a.srv.Close()
	}
	a.ln.Close() // when it was bound and never served
}
