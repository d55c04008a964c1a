package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/certs/acme"
	"github.com/sallyport/sallyport/config"
	"github.com/sallyport/sallyport/gateway"
)

const (
	// watchInterval is how often --watch looks at the files. A change is
	// taken when it has stood still for as long.
	watchInterval = time.Second

	// certInterval is how often certificate files are looked at.
	certInterval = 10 * time.Second

	// ticketPatience is how long the start waits for a store that holds the
	// keys of shared tickets.
	ticketPatience = 5 * time.Second
)

// A server is a running gateway with what surrounds it: log, metrics, health,
// certificates, reload. It belongs to one goroutine.
type server struct {
	opts    runOptions
	stderr  io.Writer
	log     *slog.Logger
	logs    *logSettings
	metrics *gateway.Metrics
	gw      *gateway.Gateway
	handler http.Handler
	admin   *adminServer
	private http.Handler
	control *controlServer
	files   fileWatch
	sockets *inherited
	state   string // the directory in use until a restart

	config  atomic.Pointer[config.Config] // read by the metrics, too
	watcher *certs.Watcher
}

// newServer returns a server that does nothing until start.
func newServer(opts runOptions, stderr io.Writer) *server {
	log, logs := newLogger(stderr)
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	build := readBuild()
	gateway.RegisterBuildInfo(reg, build.Version, build.Go)
	s := &server{
		opts:    opts,
		stderr:  stderr,
		log:     log,
		logs:    logs,
		metrics: gateway.NewMetrics(reg),
		files:   fileWatch{path: opts.path},
		sockets: inheritSockets(log),
		watcher: certs.NewWatcher(certInterval, log),
	}
	s.metrics.Certificates(s.certificates)
	s.gw = gateway.New(gateway.Options{Logger: log, Metrics: s.metrics, Listen: s.sockets.listen})
	s.handler = adminHandler(reg, s.gw.Ready, log)
	s.private = controlHandler(s.gw, time.Now(), s.config.Load)
	return s
}

// start loads the configuration and begins to serve. What is wrong with the
// configuration goes to stderr, with the lines it is about.
func (s *server) start() error {
	before := s.files.before()
	cfg, diags := config.Load(s.opts.path, config.Options{Vars: s.opts.vars})
	if diags.HasErrors() {
		diags.WriteTo(s.stderr)
		complain(s.stderr, fmt.Sprintf("%s is not valid: %s; nothing was started", s.opts.path, count(diags)))
		return errFailed
	}
	s.logs.set(cfg.Log)
	build := readBuild()
	s.log.Info("sallyport starts", "version", build.Version, "commit", build.Commit, "go", build.Go, "config", s.opts.path)
	s.warn(diags)
	s.state = cfg.State
	s.awaitTickets(cfg, ticketPatience)
	if err := s.apply(cfg); err != nil {
		return err
	}
	s.files.after(before, cfg.Files)
	notify(sdReady)
	return nil
}

// reload replaces the configuration of a running server, or leaves all as it
// was and says why.
func (s *server) reload(why string) {
	notify(sdReloading)
	defer notify(sdReady)
	s.log.Info("reloading", "reason", why, "config", s.opts.path)
	before, files := s.files.before(), s.files.files
	cfg, diags := config.Load(s.opts.path, config.Options{Vars: s.opts.vars, Previous: s.config.Load()})
	err := diags.Err()
	if err == nil {
		files = cfg.Files
		s.warn(diags)
		err = s.apply(cfg)
	}
	s.files.after(before, files)
	s.metrics.ConfigReloaded(err)
	if err != nil {
		s.log.Error("not reloaded, the old configuration stays in use", "error", err)
		return
	}
	if cfg.State != s.state {
		s.log.Warn("state.path has changed and needs a restart", "in_use", s.state, "configured", cfg.State)
	}
	s.log.Info("reloaded")
}

// apply makes a configuration the one in use. On an error nothing has changed.
func (s *server) apply(cfg *config.Config) error {
	admin := s.admin
	if admin == nil || admin.address != cfg.Admin.Address {
		var err error
		if admin, err = bindAdmin(cfg.Admin.Address, s.handler, s.log); err != nil {
			return err
		}
	}
	if err := s.gw.Apply(cfg.Gateway); err != nil {
		if admin != s.admin {
			admin.close()
		}
		return err
	}
	s.logs.set(cfg.Log)
	if admin != s.admin {
		if s.admin != nil {
			go s.admin.close() // running requests may end
		}
		s.admin = admin
		admin.serve()
	}
	s.announce(cfg.Gateway, s.config.Swap(cfg))
	s.applyControl(cfg.Admin.Control)
	s.sockets.report(cfg.Gateway, s.log)
	s.checkNoFile(cfg.Gateway)
	s.watcher.Apply(cfg.Sources, keepers(cfg)...)
	return nil
}

// applyControl binds the control socket where it is configured now. It is tried
// again with each reload until it succeeds.
func (s *server) applyControl(path string) {
	if s.control != nil && s.control.path == path && s.control.ln != nil {
		return
	}
	old := s.control
	s.control = bindControl(path, s.private, s.log)
	s.control.serve()
	go old.close() // running requests may end
}

// keepers are what else looks after itself.
func keepers(cfg *config.Config) []certs.Keeper {
	if cfg.Tickets == nil {
		return nil
	}
	return []certs.Keeper{cfg.Tickets}
}

// awaitTickets waits for the keys of shared tickets, so that the first clients
// after a restart resume. A store that takes long holds nobody up.
func (s *server) awaitTickets(cfg *config.Config, patience time.Duration) {
	if cfg.Tickets == nil {
		return
	}
	s.watcher.Apply(nil, keepers(cfg)...)
	select {
	case <-cfg.Tickets.Loaded():
	case <-time.After(patience):
	}
}

// announce logs where listeners listen that did not before.
func (s *server) announce(now *gateway.Config, before *config.Config) {
	known := map[string]bool{}
	if before != nil {
		for _, l := range before.Gateway.Listeners {
			for _, a := range l.Addresses {
				known[l.Name+" "+a] = true
			}
		}
	}
	for _, l := range now.Listeners {
		for i, addr := range s.gw.Addrs(l.Name) {
			if !known[l.Name+" "+l.Addresses[i]] {
				s.log.Info("listening", "listener", l.Name, "protocol", l.Protocol.Name, "mode", string(l.Mode), "address", addr.String())
			}
		}
	}
}

// certificates are the facts behind the metrics of certificates.
func (s *server) certificates() (facts []gateway.CertificateFact) {
	cfg := s.config.Load()
	if cfg == nil {
		return nil
	}
	for _, src := range cfg.Sources {
		fact := gateway.CertificateFact{Name: src.Name()}
		if cert, _ := src.Certificate(); cert != nil {
			fact.NotAfter = cert.Leaf.NotAfter
		}
		if issued, ok := src.(*acme.Source); ok {
			fact.Tries = issued.Status().Tries
		}
		facts = append(facts, fact)
	}
	return facts
}

// warn logs what is doubtful in a configuration.
func (s *server) warn(diags *config.Diagnostics) {
	for _, text := range diags.AllWarnings() {
		s.log.Warn("configuration", "warning", text)
	}
}

// wait serves until a signal, then drains. A nil error says that every session
// ended by itself.
func (s *server) wait(signals *signalQueue) error {
	var look <-chan time.Time
	if s.opts.watch {
		ticker := time.NewTicker(watchInterval)
		defer ticker.Stop()
		look = ticker.C
	}
	beat := newWatchdog()
	defer beat.stop()
	for {
		select {
		case sig := <-signals.c:
			if sig != hangUp {
				s.log.Info("stopping", "signal", sig.String())
				return s.shutdown(signals)
			}
			s.reload("SIGHUP")
		case <-look:
			if s.files.changed() {
				s.reload("files have changed")
			}
		case <-beat.c:
			// Ready takes the gateway's locks: a gateway that hangs is
			// not alive.
			s.gw.Ready()
			notify(sdWatchdog)
		}
	}
}

// shutdown drains: sessions end by themselves, at their deadline, or at the
// second signal.
func (s *server) shutdown(signals *signalQueue) error {
	notify(sdStopping + "\n" + sdExtend)
	ctx, force := context.WithCancel(context.Background())
	defer force()
	done := make(chan error, 1)
	go func() {
		// An order that is under way ends first: without listeners its names
		// would not be found here, which authorities count. A record may have
		// to be taken back.
		ended := make(chan struct{})
		go func() {
			s.watcher.Close()
			close(ended)
		}()
		err := s.gw.Shutdown(ctx)
		select {
		case <-ended:
		case <-ctx.Done():
		}
		done <- err
	}()

	beat := newWatchdog()
	defer beat.stop()
	extend := time.NewTicker(extendInterval)
	defer extend.Stop()
	for {
		select {
		case err := <-done:
			return s.stopped(err)
		case sig := <-signals.c:
			if sig == hangUp {
				s.log.Warn("not reloaded, the gateway is stopping")
				continue
			}
			s.log.Warn("ending all sessions now", "signal", sig.String())
			force()
		case <-beat.c:
			notify(sdWatchdog)
		case <-extend.C:
			notify(sdExtend)
		}
	}
}

// stopped takes down what is left when the gateway has ended.
func (s *server) stopped(err error) error {
	s.admin.close()
	s.control.close()
	if errors.Is(err, gateway.ErrForced) {
		s.log.Warn("stopped", "error", err)
		return errFailed
	}
	if err != nil {
		return err
	}
	s.log.Info("stopped")
	return nil
}

// filesPerSession is what a session holds open: the client and the backend.
const filesPerSession = 2

// filesBesides is room for listeners, probes, the admin server and the log.
const filesBesides = 128

// checkNoFile raises the limit of open files and warns where the limits of the
// policies promise more connections than it allows.
func (s *server) checkNoFile(cfg *gateway.Config) {
	have := raiseNoFile()
	if have == 0 {
		return
	}
	need := uint64(filesBesides)
	for _, l := range cfg.Listeners {
		need += filesPerSession * uint64(l.Policy.Limits.Connections)
	}
	if have < need {
		s.log.Warn("the limit of open files is below what limits.connections may need; raise it (LimitNOFILE= in systemd, ulimit -n) or lower limits.connections",
			"limit", have, "needed", need)
	}
}
