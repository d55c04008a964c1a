package upgradertest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/upgraders"
)

// A script is one dialogue, parsed.
type script struct {
	path string
	name string // NN-name

	mode          gateway.Mode
	cleartext     bool
	cleartextAuth *bool
	hostname      string
	noCertificate bool
	noGoAhead     bool
	backendDown   bool
	backendFirst  bool
	options       []setting
	forward       upgraders.Forward
	caps          upgraders.Capabilities
	policy        *gateway.Policy
	alpn          []string
	hosts         []string          // the only ones that the route takes
	pages         map[string]string // by path
	patience      time.Duration
	steps         []step
}

type setting struct {
	line        int
	name, value string
}

// A step is one line of what happens.
type step struct {
	line  int
	raw   string // as it stands in the script
	op    string // "C>", "B<", "tls", "eof", "B closed", …
	text  []byte // to send or to see
	match *regexp.Regexp
	glue  bool // one segment with the next
	bare  bool // what is sent or seen is not a line
}

func (s *script) is(suffix string) bool {
	_, after, _ := strings.Cut(s.name, "-")
	return after == suffix || strings.HasSuffix(after, "-"+suffix)
}

func (s *script) has(op string) bool {
	return slices.ContainsFunc(s.steps, func(st step) bool { return st.op == op })
}

func (s *script) glued() bool {
	return slices.ContainsFunc(s.steps, func(st step) bool { return st.glue })
}

// touchesBackend reports whether the script expects the backend to be dialled.
func (s *script) touchesBackend() bool {
	return slices.ContainsFunc(s.steps, func(st step) bool { return st.op[0] == 'B' && st.op != "B none" })
}

// untouched reports whether the script shows that the backend hears nothing.
func (s *script) untouched() bool {
	return s.has("B none") || s.backendFirst && s.has("B closed") && !s.has("B<")
}

// ends returns the name that the script's error line gives, or "".
func (s *script) ends() string {
	for _, st := range s.steps {
		if st.op == "error" {
			return string(st.text)
		}
	}
	return ""
}

// scriptsOf parses the scripts of a protocol: those of testdata/NAME, in a
// package that has more than one, else of testdata.
func scriptsOf(p *upgraders.Protocol) ([]*script, error) {
	dir := filepath.Join("testdata", p.Name)
	if _, err := os.Stat(dir); err != nil {
		dir = "testdata"
	}
	return load(dir)
}

// load parses every script of a directory, in the order of their names.
func load(dir string) ([]*script, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	var scripts []*script
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s, err := parse(path, string(text))
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, s)
	}
	return scripts, nil
}

var scriptName = regexp.MustCompile(`^[0-9]{2,}-[a-z0-9-]+$`)

func parse(path, text string) (*script, error) {
	s := &script{
		path:     path,
		name:     strings.TrimSuffix(filepath.Base(path), ".txt"),
		mode:     gateway.StartTLS,
		hostname: serverName,
		policy:   gateway.NewPolicy(),
		patience: patience,
		pages:    map[string]string{},
	}
	fail := func(line int, format string, args ...any) (*script, error) {
		return nil, fmt.Errorf("%s:%d: %s", path, line, fmt.Sprintf(format, args...))
	}
	if !scriptName.MatchString(s.name) {
		return fail(1, "a script is named NN-what-it-shows.txt")
	}
	if !strings.HasPrefix(text, "# ") {
		return fail(1, "a script opens with a comment: which property, which document")
	}
	for i, raw := range strings.Split(text, "\n") {
		line := i + 1
		if strings.TrimSpace(raw) == "" || strings.HasPrefix(raw, "#") {
			continue
		}
		st, isStep, err := parseStep(line, raw)
		switch {
		case err != nil:
			return fail(line, "%v", err)
		case isStep:
			s.steps = append(s.steps, st)
		case len(s.steps) > 0:
			return fail(line, "not a step: %q (the setting comes first)", raw)
		default:
			if err := s.set(line, raw); err != nil {
				return fail(line, "%v", err)
			}
		}
	}
	for i, st := range s.steps {
		if st.glue && (i+1 == len(s.steps) || s.steps[i+1].op != "C>") {
			return fail(st.line, "C>+ is glued to the next line, which must be a C> line")
		}
	}
	if len(s.steps) == 0 {
		return fail(1, "nothing happens")
	}
	return s, nil
}

var talk = regexp.MustCompile(`^([CB][<>])(~-|[-+~]?)(?: (.*))?$`)

func parseStep(line int, raw string) (step, bool, error) {
	st := step{line: line, raw: raw}
	word := strings.TrimRight(raw, " \t")
	switch word {
	case "tls", "tls fails", "eof", "B eof", "closed", "B closed", "abort", "B abort", "aborted", "B aborted", "B none":
		st.op = word
		return st, true, nil
	}
	if name, ok := strings.CutPrefix(word, "error "); ok {
		st.op, st.text = "error", []byte(name)
		return st, true, nil
	}
	m := talk.FindStringSubmatch(raw)
	if m == nil {
		return st, false, nil
	}
	st.op = m[1]
	flag, text := m[2], m[3]
	sends := st.op[1] == '>'
	var err error
	switch {
	case flag == "~" && !sends:
		st.match, err = regexp.Compile(`^(?:` + text + `)$`)
		return st, true, err
	case flag == "~-" && !sends:
		st.bare = true
		st.match, err = regexp.Compile(`^(?:` + text + `)`)
		return st, true, err
	case flag[:min(len(flag), 1)] == "~" || flag == "+" && st.op != "C>":
		return st, false, fmt.Errorf("no such step: %s%s", st.op, flag)
	}
	st.glue = flag == "+"
	if digits, ok := strings.CutPrefix(text, "hex "); ok {
		st.bare = true
		st.text, err = hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		return st, true, err
	}
	if st.text, err = unescape(text); err != nil {
		return st, true, err
	}
	if st.bare = flag == "-"; !st.bare {
		st.text = append(st.text, "\r\n"...)
	}
	return st, true, nil
}

var repeat = regexp.MustCompile(`^\\\(([^)]+)\*([0-9]{1,7})\)`)

// unescape resolves the escapes of a text.
func unescape(text string) ([]byte, error) {
	var out []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			out = append(out, text[i])
			continue
		}
		rest := text[i:]
		if m := repeat.FindStringSubmatch(rest); m != nil {
			what, err := unescape(m[1])
			if err != nil {
				return nil, err
			}
			n, _ := strconv.Atoi(m[2])
			out = append(out, bytes.Repeat(what, n)...)
			i += len(m[0]) - 1
			continue
		}
		if len(rest) >= 4 && rest[1] == 'x' {
			b, err := hex.DecodeString(rest[2:4])
			if err != nil {
				return nil, fmt.Errorf("bad escape %q", rest[:4])
			}
			out = append(out, b...)
			i += 3
			continue
		}
		if len(rest) < 2 || !strings.Contains(`rnt0\`, rest[1:2]) {
			return nil, fmt.Errorf("bad escape in %q", rest)
		}
		out = append(out, map[byte]byte{'r': '\r', 'n': '\n', 't': '\t', '0': 0, '\\': '\\'}[rest[1]])
		i++
	}
	return out, nil
}

// set takes one line of the setting.
func (s *script) set(line int, raw string) error {
	key, value, _ := strings.Cut(raw, " ")
	name, val, _ := strings.Cut(value, "=")
	switch {
	case raw == "mode implicit":
		s.mode = gateway.Implicit
	case raw == "mode starttls":
	case raw == "cleartext allow":
		s.cleartext = true
	case raw == "cleartext refuse":
	case raw == "cleartext_auth true", raw == "cleartext_auth false":
		auth := value == "true"
		s.cleartextAuth = &auth
	case raw == "certificate none":
		s.noCertificate = true
	case raw == "go-ahead none":
		s.noGoAhead = true
	case raw == "backend down":
		s.backendDown = true
	case raw == "backend first":
		s.backendFirst = true
	case raw == "forward xclient":
		s.forward.XCLIENT = true
	case raw == "forward id":
		s.forward.ID = true
	case key == "forward" && name == "webirc" && val != "":
		s.forward.WEBIRC = val
	case key == "hostname" && value != "":
		s.hostname = value
	case key == "alpn" && value != "":
		s.alpn = append(s.alpn, value)
	case key == "host" && value != "":
		s.hosts = append(s.hosts, value)
	case key == "caps":
		if s.caps == nil {
			s.caps = upgraders.Capabilities{}
		}
		if value != "" {
			s.caps = append(s.caps, value)
		}
	case key == "page" && strings.HasPrefix(name, "/"):
		s.pages[name] = val
	case key == "option":
		s.options = append(s.options, setting{line, name, val})
	case key == "policy":
		return s.setPolicy(name, val)
	default:
		return fmt.Errorf("neither a setting nor a step: %q", raw)
	}
	return nil
}

func (s *script) setPolicy(name, value string) (err error) {
	switch name {
	case "dialogue_timeout":
		s.policy.Dialogue.Timeout, err = time.ParseDuration(value)
	case "dialogue_bytes":
		s.policy.Dialogue.Bytes, err = strconv.Atoi(value)
	case "dialogue_commands":
		s.policy.Dialogue.Commands, err = strconv.Atoi(value)
	case "handshake_timeout":
		s.policy.HandshakeTimeout, err = time.ParseDuration(value)
	case "idle_timeout":
		s.policy.IdleTimeout, err = time.ParseDuration(value)
	case "stall_timeout":
		s.policy.StallTimeout, err = time.ParseDuration(value)
	default:
		err = fmt.Errorf("no such policy: %q", name)
	}
	return err
}

// ServeHTTP implements http.Handler: the pages of the script.
func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if text, ok := s.pages[r.URL.Path]; ok {
		io.WriteString(w, text)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

// upgrader makes the protocol's upgrader with the script's options.
func (s *script) upgrader(p *upgraders.Protocol) (upgraders.Upgrader, error) {
	var options any
	if p.Options != nil {
		options = p.Options()
	}
	for _, o := range s.options {
		if err := setOption(options, o.name, o.value); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", s.path, o.line, err)
		}
	}
	u, err := p.New(options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return u, nil
}

// setOption sets the field of an options struct that has an hcl tag of that
// name.
func setOption(options any, name, value string) error {
	v := reflect.Indirect(reflect.ValueOf(options))
	if v.Kind() != reflect.Struct {
		return fmt.Errorf("the protocol has no options")
	}
	for i := range v.NumField() {
		tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ",")
		if tag != name {
			continue
		}
		field := v.Field(i)
		if field.Kind() == reflect.Pointer {
			field.Set(reflect.New(field.Type().Elem()))
			field = field.Elem()
		}
		return setValue(field, value)
	}
	return fmt.Errorf("the protocol has no option %q", name)
}

func setValue(field reflect.Value, value string) error {
	switch {
	case field.Type() == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(value)
		field.SetInt(int64(d))
		return err
	case field.Kind() == reflect.String:
		field.SetString(value)
	case field.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(value)
		field.SetBool(b)
		return err
	case field.CanInt():
		n, err := strconv.ParseInt(value, 10, 64)
		field.SetInt(n)
		return err
	case field.CanUint():
		n, err := strconv.ParseUint(value, 10, 64)
		field.SetUint(n)
		return err
	case field.Type() == reflect.TypeFor[[]string]():
		field.Set(reflect.ValueOf(strings.Split(value, ",")))
	default:
		return fmt.Errorf("an option of type %s cannot be set by a script", field.Type())
	}
	return nil
}
