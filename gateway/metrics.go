package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the gateway's figures.
type Metrics struct{}

// CertificateFact is what a metric tells of a certificate.
type CertificateFact struct {
	Name     string
	NotAfter time.Time
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics { return &Metrics{} }

// ConfigReloaded counts a reload by its result.
func (m *Metrics) ConfigReloaded(err error) {}

// Certificates sets where the facts on certificates come from.
func (m *Metrics) Certificates(facts func() []CertificateFact) {}
