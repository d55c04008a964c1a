package config

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// The types of attributes that HCL lacks. Each is written as a string with a
// unit or in a form of its own.
type (
	ident  string  // a name that others can refer to
	size   int     // "16KiB"
	rate   float64 // "20/s"
	count  int     // 20000 or "none"
	bind   string  // "127.0.0.1:25", ":25"
	server string  // "host:25", "unix:/path"
	host   string  // "mx1.example.org", "192.0.2.1"
	sni    string  // "mx1.example.org", "*.example.org"
)

// assign converts a value into what p points to, or says what to write
// instead.
func (l *loader) assign(p any, v cty.Value, f *field) error {
	if p, ok := p.(*cty.Value); ok {
		*p = v
		return nil
	}
	switch {
	case !v.IsWhollyKnown():
		return errQuiet
	case v.IsNull():
		return errors.New("null stands for no value: write one")
	}
	into := reflect.ValueOf(p).Elem()
	switch {
	case into.Kind() == reflect.Slice:
		return l.assignList(into, v, f)
	case into.Kind() == reflect.Pointer:
		return l.assignReference(into, v, f)
	}
	var err error
	switch p := p.(type) {
	case *bool:
		b, err := convert.Convert(v, cty.Bool)
		if err != nil {
			return errors.New("write true or false")
		}
		*p = b.True()
	case *int:
		*p, err = wholeNumber(v)
	case *count:
		if v.Type() == cty.String && v.AsString() == "none" {
			*p = 0
			return nil
		}
		var n int
		if n, err = wholeNumber(v); err == nil && n < 1 {
			err = errors.New(`write a number above 0, or "none"`)
		}
		*p = count(n)
	default:
		s, err := convert.Convert(v, cty.String)
		if err != nil {
			return fmt.Errorf("write a string, not %s", nounOf(v.Type()))
		}
		return l.assignString(p, s.AsString(), f)
	}
	return err
}

func (l *loader) assignString(p any, s string, f *field) (err error) {
	switch p := p.(type) {
	case *string:
		if f.enum != nil && !slices.Contains(f.enum, s) {
			return fmt.Errorf("%q is not known here: write %s.%s", s, oneOf(f.enum), didYouMean(s, f.enum))
		}
		*p = s
	case *ident:
		if !hclsyntax.ValidIdentifier(s) {
			return fmt.Errorf("%q is not a name that others could refer to: use letters, digits, - and _, a letter first", s)
		}
		*p = ident(s)
	case *time.Duration:
		*p, err = parseDuration(s, f)
	case *size:
		*p, err = parseSize(s)
	case *rate:
		*p, err = parseRate(s)
	case *bind:
		*p, err = parseBind(s)
	case *server:
		*p, err = parseServer(s)
	case *host:
		*p, err = parseHost(s)
	case *sni:
		*p, err = parseSNI(s)
	case *netip.Prefix:
		*p, err = parsePrefix(s)
	default:
		panic(fmt.Sprintf("the schema has no attributes of type %T", p))
	}
	return err
}

func (l *loader) assignList(into reflect.Value, v cty.Value, f *field) error {
	ty := v.Type()
	if !ty.IsTupleType() && !ty.IsListType() && !ty.IsSetType() {
		example := "…"
		switch {
		case ty == cty.String && into.Type().Elem().Kind() != reflect.Pointer:
			example = strconv.Quote(v.AsString())
		case ty.IsCapsuleType():
			example = l.kindOf(ty.EncapsulatedType()) + "." + labelOf(v)
		}
		return fmt.Errorf("a list is wanted: write %s = [%s]", f.name, example)
	}
	list := reflect.MakeSlice(into.Type(), 0, v.LengthInt())
	for _, element := range v.Elements() {
		e := reflect.New(into.Type().Elem())
		if err := l.assign(e.Interface(), element, f); err != nil {
			return err
		}
		list = reflect.Append(list, e.Elem())
	}
	if list.Len() == 0 {
		return errors.New("the list is empty: write at least one element, or leave the attribute out")
	}
	into.Set(list)
	return nil
}

var errString = errors.New("a string is no reference")

// assignReference takes the block that a capsule holds.
func (l *loader) assignReference(into reflect.Value, v cty.Value, f *field) error {
	want := l.kindOf(into.Type().Elem())
	if v.Type().IsCapsuleType() {
		if got := v.Type().EncapsulatedType(); got != into.Type().Elem() {
			return fmt.Errorf("a %s is wanted, and %s.%s is none%s", want, l.kindOf(got), labelOf(v), l.instead(want, ""))
		}
		into.Set(reflect.ValueOf(v.EncapsulatedValue()))
		return nil
	}
	if v.Type() == cty.String {
		return fmt.Errorf("%w%s", errString, l.instead(want, v.AsString()))
	}
	if v.Type().IsTupleType() || v.Type().IsListType() {
		return fmt.Errorf("one %s is wanted, not a list%s", want, l.instead(want, ""))
	}
	return fmt.Errorf("a %s is wanted, not %s%s", want, nounOf(v.Type()), l.instead(want, ""))
}

// typeName is the type of an attribute in words, for the documentation.
func (l *loader) typeName(t reflect.Type, f *field) string {
	switch {
	case t.Kind() == reflect.Slice:
		return "list of " + l.typeName(t.Elem(), f)
	case t.Kind() == reflect.Pointer:
		return "`" + l.kindOf(t.Elem()) + "` reference"
	case f.enum != nil:
		return "`\"" + strings.Join(f.enum, "\"`, `\"") + "\"`"
	}
	name := ""
	switch reflect.Zero(t).Interface().(type) {
	case string:
		name = "string"
	case bool:
		name = "bool"
	case int:
		name = "number"
	case count:
		name = "number"
	case time.Duration:
		name = "duration"
	case size:
		name = "size"
	case rate:
		name = "rate"
	case bind, server:
		name = "address"
	case host:
		name = "host name"
	case sni:
		name = "name pattern"
	case netip.Prefix:
		name = "network"
	default:
		if t == reflect.TypeFor[cty.Value]() {
			name = "any"
			break
		}
		panic("the schema has no attributes of type " + t.String())
	}
	if f.none != "" {
		name += " or `\"none\"`"
	}
	return name
}

func nounOf(t cty.Type) string {
	if t.IsCapsuleType() {
		return "a reference"
	}
	if t.IsTupleType() || t.IsListType() {
		return "a list"
	}
	return "a value of type " + t.FriendlyName()
}

func wholeNumber(v cty.Value) (int, error) {
	wrong := errors.New("write a whole number")
	number, err := convert.Convert(v, cty.Number)
	if err != nil {
		return 0, wrong
	}
	n, exact := number.AsBigFloat().Int64()
	if exact != big.Exact || n > math.MaxInt32 || n < math.MinInt32 {
		return 0, wrong
	}
	return int(n), nil
}

// parseDuration takes "10s", "1h30m", and "none" where the field knows what
// that means; it is negative then.
func parseDuration(s string, f *field) (time.Duration, error) {
	if s == "none" && f.none != "" {
		return -1, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf(`%q is no duration: write a number with ms, s, m or h, such as "10s" or "1h30m"`, s)
	}
	switch {
	case d < 0:
		return 0, fmt.Errorf("%q is negative: write a time that can pass", s)
	case d == 0 && f.none != "":
		return 0, fmt.Errorf(`%q could mean two things: write "none" for no such time`, s)
	case d == 0:
		return 0, fmt.Errorf("%q would end it before it began: write how long it may take", s)
	}
	return d, nil
}

func parseSize(s string) (size, error) {
	wrong := fmt.Errorf(`%q is no size: write a whole number with B, KiB or MiB, such as "16KiB"`, s)
	for _, unit := range []struct {
		name  string
		bytes int
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"B", 1}} {
		digits, ok := strings.CutSuffix(s, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(digits))
		if err != nil || n < 1 || n > math.MaxInt32/unit.bytes {
			return 0, wrong
		}
		return size(n * unit.bytes), nil
	}
	return 0, wrong
}

func parseRate(s string) (rate, error) {
	if s == "none" {
		return 0, nil
	}
	wrong := fmt.Errorf(`%q is no rate: write a number a second or a minute, such as "20/s" or "30/m", or "none"`, s)
	digits, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(n > 0 && n <= 1e6) {
		return 0, wrong
	}
	switch unit {
	case "s":
		return rate(n), nil
	case "m":
		return rate(n / 60), nil
	}
	return 0, wrong
}

// oneOf lists values to write: "a", "b" or "c".
func oneOf(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	if n := len(quoted) - 1; n > 0 {
		return strings.Join(quoted[:n], ", ") + " or " + quoted[n]
	}
	return strings.Join(quoted, "")
}
