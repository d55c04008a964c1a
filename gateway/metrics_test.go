package gateway_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/gateway"
)

// Certificates show when they expire, if there is one, and how often an
// authority was asked, if one is.
func TestCertificateMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := gateway.NewMetrics(reg)
	m.Certificates(func() []gateway.CertificateFact {
		return []gateway.CertificateFact{
			{Name: "file", NotAfter: time.Unix(1000, 0)},
			{Name: "issued", NotAfter: time.Unix(2000, 0), Tries: map[string]uint64{"ok": 2, "validation": 0}},
			{Name: "waits", Tries: map[string]uint64{"ok": 0, "validation": 3}},
		}
	})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, s := range f.GetMetric() {
			line := f.GetName()
			for _, l := range s.GetLabel() {
				line += " " + l.GetValue()
			}
			switch f.GetName() {
			case "sallyport_certificate_not_after_seconds":
				got = append(got, fmt.Sprint(line, " ", s.GetGauge().GetValue()))
			case "sallyport_certificate_tries_total":
				got = append(got, fmt.Sprint(line, " ", s.GetCounter().GetValue()))
			}
		}
	}
	want := []string{
		"sallyport_certificate_not_after_seconds file 1000",
		"sallyport_certificate_not_after_seconds issued 2000",
		"sallyport_certificate_tries_total issued ok 2",
		"sallyport_certificate_tries_total issued validation 0",
		"sallyport_certificate_tries_total waits ok 0",
		"sallyport_certificate_tries_total waits validation 3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
