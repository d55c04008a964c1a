package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certs"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// dump writes a Config as text: every field that isn't zero, so that a new one
// shows by itself.
func dump(cfg *Config) string {
	var d dumper
	d.value("config", reflect.ValueOf(cfg).Elem(), 0)
	return d.String()
}

type dumper struct{ strings.Builder }

func (d *dumper) line(depth int, format string, args ...any) {
	d.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(d, format+"\n", args...)
}

func (d *dumper) value(name string, v reflect.Value, depth int) {
	if v.IsZero() {
		return
	}
	switch x := v.Interface().(type) {
	case *upgraders.Protocol:
		d.line(depth, "%s: %s", name, x.Name)
		return
	case *testUpgrader:
		d.value(name+".Options", reflect.ValueOf(x.Options), depth)
		return
	case upgraders.Upgrader:
		return
	case *x509.CertPool:
		d.line(depth, "%s: a pool", name)
		return
	case *certs.Set:
		cert, covered, err := x.Certificate(&tls.ClientHelloInfo{})
		if err != nil {
			d.line(depth, "%s: %v", name, err)
			return
		}
		d.line(depth, "%s: by default %v, covered %t", name, cert.Leaf.DNSNames, covered)
		return
	case *pages:
		d.line(depth, "%s: of %d authorities and %d HTTPS listeners", name, len(x.issuers), len(x.https))
		return
	case issuers:
		d.line(depth, "%s: of %d authorities", name, len(x))
		return
	case certs.Source:
		d.line(depth, "%s: %s %v", name, x.Name(), x.Names())
		return
	case time.Duration:
		d.line(depth, "%s: %s", name, x)
		return
	case encoding.TextMarshaler:
		text, _ := x.MarshalText()
		d.line(depth, "%s: %s", name, text)
		return
	case *gateway.Backend:
		if strings.HasSuffix(name, "Backend") {
			d.line(depth, "%s: %s", name, x.Name)
			return
		}
	case *gateway.Policy:
		if reflect.DeepEqual(x, gateway.NewPolicy()) {
			d.line(depth, "%s: the default", name)
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		d.value(name, v.Elem(), depth)
	case reflect.Slice:
		for i := range v.Len() {
			d.value(fmt.Sprintf("%s[%d]", name, i), v.Index(i), depth)
		}
	case reflect.Struct:
		d.line(depth, "%s:", name)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				d.value(v.Type().Field(i).Name, v.Field(i), depth+1)
			}
		}
	default:
		d.line(depth, "%s: %v", name, v.Interface())
	}
}
