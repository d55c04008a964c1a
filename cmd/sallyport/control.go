package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/config"
	"github.com/sallyport/sallyport/gateway"
)

// The control socket is how commands reach a running gateway: HTTP and JSON
// over a unix socket that only root and the gateway's own user may use. What it
// tells is not for everybody (clients' addresses, memory), so none of it is on
// the admin address.
//
//	GET /clients             whom a stricter policy would break
//	GET /certs               every certificate
//	GET /certs/NAME          one, or those of one block
//	POST /certs/NAME/renew   have it issued anew, now
//	GET /debug/pprof/        profiles of the process: net/http/pprof

// clientsReport is the answer to GET /clients.
type clientsReport struct {
	Since     time.Time             `json:"since"`     // when counting began
	Listeners []string              `json:"listeners"` // that are configured
	Clients   []gateway.ClientTally `json:"clients"`
}

// controlHandler serves the control socket. current is the configuration in
// use, nil before the first.
func controlHandler(gw *gateway.Gateway, since time.Time, current func() *config.Config) http.Handler {
	mux := http.NewServeMux()
	listeners := func() (names []string) {
		if cfg := current(); cfg != nil {
			for _, l := range cfg.Gateway.Listeners {
				names = append(names, l.Name)
			}
		}
		return names
	}
	mux.HandleFunc("GET /clients", func(w http.ResponseWriter, _ *http.Request) {
		report := clientsReport{Since: since, Listeners: listeners(), Clients: gw.Clients()}
		if report.Clients == nil {
			report.Clients = []gateway.ClientTally{}
		}
		answerJSON(w, http.StatusOK, report)
	})
	serveCerts(mux, current)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// A controlServer is a bound control socket. The zero value binds nothing.
type controlServer struct {
	path string // as configured
	ln   net.Listener
	srv  *http.Server
	log  *slog.Logger
}

// bindControl binds the socket. A gateway works without one, so that a path
// where none can be made is a warning and not an error.
func bindControl(path string, handler http.Handler, log *slog.Logger) *controlServer {
	c := &controlServer{path: path, log: log}
	ln, err := listenControl(path)
	if err != nil {
		log.Warn("no control socket; sallyport report and profiles do without", "path", path, "error", err)
		return c
	}
	c.ln = &privateListener{ln, log}
	c.srv = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      5 * time.Minute, // a profile is as long as was asked for
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return c
}

// listenControl binds a unix socket, in place of one that nobody answers on.
func listenControl(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	ln, err := net.ListenUnix("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		ln, err = net.ListenUnix("unix", addr)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; make the directory, owned by the gateway's user, or choose another admin.control", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w; let user id %d write there, or choose another admin.control", err, os.Geteuid())
	case err != nil:
		return nil, err
	}
	// Until here, and for the impatient, privateListener looks who asks.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// removeStale removes what a gateway left behind that was killed, and nothing
// else: no socket that is answered on, and no file.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket; choose another admin.control", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("another gateway answers on %s; give each its own state.path or admin.control", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// A privateListener accepts root and the user of this process.
type privateListener struct {
	*net.UnixListener
	log *slog.Logger
}

func (l *privateListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return conn, nil
		}
		l.log.Warn("a stranger asks on the control socket", "uid", uid, "error", err)
		conn.Close()
	}
}

func (c *controlServer) serve() {
	if c.ln != nil {
		go c.accept()
	}
}

func (c *controlServer) accept() {
	if err := c.srv.Serve(c.ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		c.log.Error("control socket ended", "error", err)
	}
}

// close gives running requests a moment to end, and removes the socket.
func (c *controlServer) close() {
	if c == nil || c.ln == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if c.srv.Shutdown(ctx) != nil {
		c.srv.Close()
	}
	c.ln.Close() // when it was bound and never served
}

func answerJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

// A refusal is the answer to what cannot be done.
type refusal struct {
	Error string `json:"error"`
}

// askControl asks the gateway that runs a configuration, and decodes its answer.
func askControl(ctx context.Context, configPath string, vars map[string]string, page string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return callControl(ctx, "GET", configPath, vars, page, func(r io.Reader) error { return json.NewDecoder(r).Decode(answer) })
}

// callControl makes a request and has its answer read.
func callControl(ctx context.Context, method, configPath string, vars map[string]string, page string, read func(io.Reader) error) error {
	socket, diags := config.ControlSocket(configPath, config.Options{Vars: vars})
	if socket == "" {
		return fmt.Errorf("the control socket cannot be found: %w", diags)
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+page, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return explainControl(socket, configPath, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var why refusal
		if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&why) == nil && why.Error != "" {
			return errors.New(why.Error)
		}
		return fmt.Errorf("the gateway on %s answers %s to %s; is it of another version?", socket, resp.Status, page)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("answer of the gateway on %s: %w", socket, err)
	}
	return nil
}

// errNobody is what asking a gateway that does not run ends with.
var errNobody = errors.New("nobody answers")

func explainControl(socket, configPath string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s: is a gateway running with %s? If one is, its log says why it has no control socket", errNobody, socket, configPath)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the gateway on %s does not talk to you: only root and its own user may ask (%w)", socket, err)
	}
	return fmt.Errorf("ask the gateway on %s: %w", socket, err)
}
