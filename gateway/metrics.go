package gateway

import (
	"crypto/tls"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/upgraders"
)

// Metrics are the gateway's figures. Their names are API; their labels have
// closed sets of values, or values from the configuration, and never what a
// client said.
type Metrics struct {
	sessionsTotal *prometheus.CounterVec
	handshakes    *prometheus.CounterVec
	handshakeTime prometheus.Histogram
	rejected      *prometheus.CounterVec
	backendUp     *prometheus.GaugeVec
	reloads       *prometheus.CounterVec

	active   *prometheus.Desc
	bytes    *prometheus.Desc
	notAfter *prometheus.Desc
	tries    *prometheus.Desc

	sessions atomic.Pointer[tracker]
	facts    atomic.Pointer[func() []CertificateFact]
}

// CertificateFact is what a metric tells of a certificate.
type CertificateFact struct {
	Name     string            // the label in the configuration
	NotAfter time.Time         // zero where there is none
	Tries    map[string]uint64 // to have it issued, by result; nil where nobody issues it
}

// NewMetrics makes the metrics and registers them; a nil reg keeps them
// private.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		sessionsTotal: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_sessions_total",
			Help: "Sessions that ended, by RFC 7435's security label and how they ended.",
		}, []string{"listener", "protocol", "security", "outcome"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_handshakes_total",
			Help: "TLS handshakes with clients, by version (empty where none was agreed on) and result: ok, resumed, failed, timeout.",
		}, []string{"listener", "version", "result"}),
		handshakeTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sallyport_handshake_seconds",
			Help:    "How long successful TLS handshakes took, the client's share included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10),
		}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_dialogue_rejected_total",
			Help: "Clients turned away by the rules of the dialogue, by reason.",
		}, []string{"listener", "reason"}),
		backendUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_backend_up",
			Help: "Whether the last probe of a backend server succeeded.",
		}, []string{"backend", "server"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_config_reloads_total",
			Help: "Reloads of the configuration, by result: ok, failed.",
		}, []string{"result"}),
		active: prometheus.NewDesc("sallyport_sessions_active",
			"Sessions that are open.", []string{"listener"}, nil),
		bytes: prometheus.NewDesc("sallyport_bytes_total",
			"Bytes moved on clients' connections, TLS included; in is from the client.", []string{"listener", "direction"}, nil),
		notAfter: prometheus.NewDesc("sallyport_certificate_not_after_seconds",
			"When a certificate that is served expires, in Unix time.", []string{"name"}, nil),
		tries: prometheus.NewDesc("sallyport_certificate_tries_total",
			"Tries to have a certificate issued, by result: ok, store, limited, validation, refused, dns, unusable, unreachable.", []string{"name", "result"}, nil),
	}
	for _, result := range []string{"ok", "failed"} {
		m.reloads.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.sessionsTotal, m.handshakes, m.handshakeTime, m.rejected, m.backendUp, m.reloads, m)
	}
	return m
}

// RegisterBuildInfo adds sallyport_build_info.
func RegisterBuildInfo(reg prometheus.Registerer, version, goVersion string) {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "sallyport_build_info",
		Help:        "Always 1; the labels tell which build runs.",
		ConstLabels: prometheus.Labels{"version": version, "go": goVersion},
	})
	info.Set(1)
	reg.MustRegister(info)
}

// ConfigReloaded counts a reload by its result.
func (m *Metrics) ConfigReloaded(err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.reloads.WithLabelValues(result).Inc()
}

// Certificates sets where the facts on certificates come from.
func (m *Metrics) Certificates(facts func() []CertificateFact) { m.facts.Store(&facts) }

// listener makes a listener's series exist, so that a rate over them is right
// from the first event on.
func (m *Metrics) listener(l *Listener) {
	for _, reason := range upgraders.Reasons() {
		m.rejected.WithLabelValues(l.Name, reason)
	}
}

func (m *Metrics) handshake(listener string, state *tls.ConnectionState, err error, took time.Duration) {
	result, version := "ok", ""
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		result = "timeout"
	case err != nil:
		result = "failed"
	case state.DidResume:
		result = "resumed"
	}
	if err == nil {
		version = versionName(state.Version)
		m.handshakeTime.Observe(took.Seconds())
	}
	m.handshakes.WithLabelValues(listener, version, result).Inc()
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.active
	ch <- m.bytes
	ch <- m.notAfter
	ch <- m.tries
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	if t := m.sessions.Load(); t != nil {
		for name, y := range t.totals() {
			ch <- prometheus.MustNewConstMetric(m.active, prometheus.GaugeValue, float64(y.active), name)
			ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.CounterValue, float64(y.in), name, "in")
			ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.CounterValue, float64(y.out), name, "out")
		}
	}
	if facts := m.facts.Load(); facts != nil {
		for _, f := range (*facts)() {
			if !f.NotAfter.IsZero() {
				ch <- prometheus.MustNewConstMetric(m.notAfter, prometheus.GaugeValue, float64(f.NotAfter.Unix()), f.Name)
			}
			for result, n := range f.Tries {
				ch <- prometheus.MustNewConstMetric(m.tries, prometheus.CounterValue, float64(n), f.Name, result)
			}
		}
	}
}

var _ prometheus.Collector = (*Metrics)(nil)
