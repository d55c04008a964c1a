package packaging

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/config"
)

// The schema is Kubernetes' own (1.34, Apache-2.0), of the kinds that the example
// uses and without its prose. That of another release, which the Go module
// k8s.io/kubernetes has, is taken by:
//
//	go test ./packaging -run TestKubernetesSchema -openapi kubernetes/api/openapi-spec/v3
var openapiDir = flag.String("openapi", "", "`directory` of Kubernetes' OpenAPI documents to take testdata/openapi.json from")

const (
	openapiFile   = "testdata/openapi.json"
	kubernetesDir = "../examples/kubernetes"
)

// object is a manifest, or a part of one.
type object = map[string]any

// openapi is a set of schemas: components.schemas of an OpenAPI document.
type openapi map[string]object

// kinds are what the example is made of, by apiVersion and kind.
var kinds = map[string]string{
	"v1 ConfigMap":                       "io.k8s.api.core.v1.ConfigMap",
	"v1 Service":                         "io.k8s.api.core.v1.Service",
	"apps/v1 Deployment":                 "io.k8s.api.apps.v1.Deployment",
	"policy/v1 PodDisruptionBudget":      "io.k8s.api.policy.v1.PodDisruptionBudget",
	"networking.k8s.io/v1 NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
}

// Each manifest is what the API server would take: fields that exist, of the
// right type, with none missing. Control: it finds what is wrong.
func TestKubernetesSchema(t *testing.T) {
	if *openapiDir != "" {
		takeSchemas(t)
	}
	var schemas openapi
	if err := json.Unmarshal([]byte(read(t, openapiFile)), &schemas); err != nil {
		t.Fatal(err)
	}
	for _, m := range manifests(t) {
		if faults := schemas.check(m); faults != nil {
			t.Errorf("%s %s:\n%s", m["kind"], field(m, "metadata", "name"), strings.Join(faults, "\n"))
		}
	}
	text := read(t, filepath.Join(kubernetesDir, "deployment.yaml"))
	for _, control := range []struct{ right, wrong, fault string }{
		{"replicas: 2", "replicas: two", ".spec.replicas: two is no integer"},
		{"readOnlyRootFilesystem:", "readonlyRootFilesystem:", ".securityContext has no field readonlyRootFilesystem"},
		{"sleep: {seconds: 10}", "sleep: {}", ".sleep.seconds is required"},
		{"drop: [ALL]", "drop: ALL", ".drop: ALL is no array"},
		{"cpu: 100m", "cpu: [100m]", ".cpu: [100m] is none of"},
		{"kind: Deployment", "kind: Deploiment", "no kind that is known"},
		{"  replicas: 2\n", "  replicas: 2\n  replicas: 3\n", "already defined"},
	} {
		if !strings.Contains(text, control.right) {
			t.Errorf("control: deployment.yaml has no %q", control.right)
		}
		docs, err := decode([]byte(strings.Replace(text, control.right, control.wrong, 1)))
		faults := fmt.Sprint(err)
		if err == nil {
			faults = strings.Join(schemas.check(docs[0]), "\n")
		}
		if !strings.Contains(faults, control.fault) {
			t.Errorf("control: %q passes: %s", control.wrong, faults)
		}
	}
}

// manifests returns the documents of all files.
func manifests(t *testing.T) (all []object) {
	t.Helper()
	files, err := filepath.Glob(kubernetesDir + "/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("manifests are missing: %v %v", files, err)
	}
	for _, file := range files {
		docs, err := decode([]byte(read(t, file)))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, docs...)
	}
	return all
}

func decode(text []byte) (docs []object, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc object
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
}

// check holds a manifest against the schema of its kind.
func (s openapi) check(m object) []string {
	name := fmt.Sprintf("%v %v", m["apiVersion"], m["kind"])
	schema := s[kinds[name]]
	if schema == nil {
		return []string{fmt.Sprintf("%s is no kind that is known: add it to kinds and take its schema", name)}
	}
	return s.faults("", schema, m)
}

// faults is as much of JSON Schema as Kubernetes' documents use.
func (s openapi) faults(path string, schema object, value any) (faults []string) {
	if ref, ok := schema["$ref"].(string); ok {
		return s.faults(path, s[ref], value)
	}
	for _, part := range list(schema["allOf"]) {
		faults = append(faults, s.faults(path, part.(object), value)...)
	}
	if choices := list(schema["oneOf"]); choices != nil {
		for _, choice := range choices {
			if s.faults(path, choice.(object), value) == nil {
				return faults
			}
		}
		return append(faults, fmt.Sprintf("%s: %v is none of %v", path, value, choices))
	}
	wrong := func(is bool) bool {
		if !is {
			faults = append(faults, fmt.Sprintf("%s: %v is no %v", path, value, schema["type"]))
		}
		return !is
	}
	switch schema["type"] {
	case "string":
		_, is := value.(string)
		wrong(is)
	case "boolean":
		_, is := value.(bool)
		wrong(is)
	case "integer":
		_, is := value.(int)
		wrong(is)
	case "number":
		switch value.(type) {
		case int, float64:
		default:
			wrong(false)
		}
	case "array":
		items, is := value.([]any)
		if wrong(is) {
			return faults
		}
		for i, item := range items {
			faults = append(faults, s.faults(fmt.Sprintf("%s[%d]", path, i), schema["items"].(object), item)...)
		}
	case "object":
		fields, is := value.(object)
		if wrong(is) {
			return faults
		}
		properties, _ := schema["properties"].(object)
		others, _ := schema["additionalProperties"].(object)
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			of, ok := properties[name].(object)
			if !ok {
				of = others
			}
			if of == nil {
				faults = append(faults, fmt.Sprintf("%s has no field %s", path, name))
				continue
			}
			faults = append(faults, s.faults(path+"."+name, of, fields[name])...)
		}
		for _, name := range list(schema["required"]) {
			if _, ok := fields[name.(string)]; !ok {
				faults = append(faults, fmt.Sprintf("%s.%s is required", path, name))
			}
		}
	}
	return faults
}

func list(v any) []any { l, _ := v.([]any); return l }

// takeSchemas writes the schemas that the kinds need, without prose.
func takeSchemas(t *testing.T) {
	all, taken := openapi{}, openapi{}
	files, err := filepath.Glob(filepath.Join(*openapiDir, "*v1_openapi.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no OpenAPI documents in %s: %v", *openapiDir, err)
	}
	for _, file := range files {
		var doc struct {
			Components struct{ Schemas openapi }
		}
		if err := json.Unmarshal([]byte(read(t, file)), &doc); err != nil {
			t.Fatal(err)
		}
		maps.Copy(all, doc.Components.Schemas)
	}
	var take func(name string)
	var strip func(v any) any
	take = func(name string) {
		if taken[name] == nil {
			taken[name] = object{} // it may refer to itself
			taken[name] = strip(all[name]).(object)
		}
	}
	strip = func(v any) any {
		switch v := v.(type) {
		case object:
			out := object{}
			for key, value := range v {
				switch {
				case key == "$ref":
					name := strings.TrimPrefix(value.(string), "#/components/schemas/")
					take(name)
					out[key] = name
				case key == "properties":
					properties := object{} // whose names may be any
					for name, p := range value.(object) {
						properties[name] = strip(p)
					}
					out[key] = properties
				case slices.Contains([]string{"type", "items", "additionalProperties", "required", "allOf", "oneOf"}, key):
					out[key] = strip(value)
				}
			}
			return out
		case []any:
			out := make([]any, len(v))
			for i := range v {
				out[i] = strip(v[i])
			}
			return out
		}
		return v
	}
	for _, name := range kinds {
		if all[name] == nil {
			t.Fatalf("%s has no %s", *openapiDir, name)
		}
		take(name)
	}
	text, err := json.MarshalIndent(taken, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(openapiFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// field walks into a manifest: names of fields and indexes of lists.
func field(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(object)
			v = m[step]
		case int:
			l := list(v)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// The manifests agree with each other, with the configuration in them and with
// the gateway: every port is one of a listener's, every file is mounted, the
// pods may drain for as long as the configuration says, backends can be
// reached, and by nobody else.
func TestKubernetesManifestsAgree(t *testing.T) {
	byName := map[string]object{}
	for _, m := range manifests(t) {
		byName[fmt.Sprintf("%v %v", m["kind"], field(m, "metadata", "name"))] = m
		if ns := field(m, "metadata", "namespace"); ns != "mail" {
			t.Errorf("%v is in the namespace %v", m["kind"], ns)
		}
	}
	pod := field(byName["Deployment sallyport"], "spec", "template", "spec")
	container := field(pod, "containers", 0)
	equal := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}

	// The configuration, with the Secret where it is here.
	src := field(byName["ConfigMap sallyport"], "data", "sallyport.hcl").(string)
	mounts := map[string]string{} // volume to path
	for _, m := range list(field(container, "volumeMounts")) {
		mounts[field(m, "name").(string)] = field(m, "mountPath").(string)
		if field(m, "subPath") != nil {
			t.Errorf("%v is mounted by subPath, which never changes", field(m, "name"))
		}
	}
	dir := t.TempDir()
	certificate(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), "mail.example.org")
	if !strings.Contains(src, `"`+mounts["tls"]+`/tls.crt"`) || !strings.Contains(src, `"`+mounts["tls"]+`/tls.key"`) {
		t.Errorf("the configuration does not read the Secret, which is mounted at %s", mounts["tls"])
	}
	path := filepath.Join(dir, "config", "sallyport.hcl")
	write(t, path, strings.ReplaceAll(src, mounts["tls"], dir))
	cfg, diags := config.Load(filepath.Dir(path), config.Options{})
	if diags.Errors()+diags.Warnings() > 0 {
		var out strings.Builder
		diags.WriteTo(&out)
		t.Fatal(out.String())
	}
	if formatted, _ := config.Format([]byte(src), "sallyport.hcl"); string(formatted) != src {
		t.Errorf("the configuration is not in the one style; it would be:\n%s", formatted)
	}
	equal("args", field(container, "args"), []string{"run", "-c", mounts["config"], "--watch"})
	equal("the mount of state", mounts["state"], cfg.State)

	// Ports: of listeners, containers, Service and policies.
	listens, drain := map[int]bool{}, time.Duration(0)
	for _, l := range cfg.Gateway.Listeners {
		for _, address := range l.Addresses {
			listens[port(t, address)] = true
		}
		drain = max(drain, l.Policy.DrainTimeout)
	}
	admin := port(t, cfg.Admin.Address)
	number := map[string]int{} // of a container's port
	for _, p := range list(field(container, "ports")) {
		n := field(p, "containerPort").(int)
		number[field(p, "name").(string)] = n
		if !listens[n] && n != admin {
			t.Errorf("nothing listens on container port %d", n)
		}
		if n < 1024 {
			t.Errorf("container port %d needs a privilege", n)
		}
	}
	equal("ports of the container", len(number), len(listens)+1)
	equal("the admin port", number["admin"], admin)
	equal("the scraped port", field(byName["Deployment sallyport"], "spec", "template", "metadata", "annotations", "prometheus.io/port"), admin)
	service := field(byName["Service sallyport"], "spec")
	equal("externalTrafficPolicy", field(service, "externalTrafficPolicy"), "Local")
	served := map[int]bool{}
	for _, p := range list(field(service, "ports")) {
		served[number[field(p, "targetPort").(string)]] = true
	}
	equal("ports of the Service", served, listens)
	gateways := field(byName["NetworkPolicy sallyport"], "spec")
	equal("ports that clients may reach", ports(field(gateways, "ingress", 0), number), slices.Sorted(maps.Keys(listens)))
	if field(gateways, "ingress", 0, "from") != nil {
		t.Error("not all clients may reach the listeners")
	}
	equal("ports that Prometheus may reach", ports(field(gateways, "ingress", 1), number), []int{admin})
	var backends, reached []int
	for _, b := range cfg.Gateway.Backends {
		for _, s := range b.Servers {
			backends = append(backends, port(t, s.Address))
		}
	}
	for i := range 2 {
		reached = append(reached, ports(field(gateways, "egress", i), nil)...)
	}
	slices.Sort(backends)
	slices.Sort(reached)
	equal("ports of backends that may be reached", reached, backends)
	guard := field(byName["NetworkPolicy sallyport-backends"], "spec", "ingress")
	equal("ports of backends that are guarded", ports(field(guard, 0), nil), backends)
	equal("rules of who may reach backends", len(list(guard)), 1)

	// One set of labels.
	labels := field(byName["Deployment sallyport"], "spec", "template", "metadata", "labels")
	for what, selector := range map[string]any{
		"Deployment":          field(byName["Deployment sallyport"], "spec", "selector", "matchLabels"),
		"Service":             field(service, "selector"),
		"PodDisruptionBudget": field(byName["PodDisruptionBudget sallyport"], "spec", "selector", "matchLabels"),
		"NetworkPolicy":       field(gateways, "podSelector", "matchLabels"),
		"backends' guard":     field(guard, 0, "from", 0, "podSelector", "matchLabels"),
		"spread":              field(pod, "topologySpreadConstraints", 0, "labelSelector", "matchLabels"),
	} {
		equal("labels that the "+what+" selects", selector, labels)
	}

	// Health and the end.
	equal("readiness", field(container, "readinessProbe", "httpGet"), object{"path": "/readyz", "port": "admin"})
	equal("start", field(container, "startupProbe", "httpGet"), object{"path": "/readyz", "port": "admin"})
	equal("liveness", field(container, "livenessProbe", "httpGet"), object{"path": "/healthz", "port": "admin"})
	sleep, _ := field(container, "lifecycle", "preStop", "sleep", "seconds").(int)
	grace, _ := field(pod, "terminationGracePeriodSeconds").(int)
	if need := sleep + int(drain.Seconds()) + 10; sleep < 5 || grace < need {
		t.Errorf("preStop sleeps %ds and sessions drain for %s, so that terminationGracePeriodSeconds must be at least %d; it is %d", sleep, drain, need, grace)
	}

	// Pod Security Standards, restricted; and what it does not ask for.
	for what, is := range map[string]bool{
		"runAsNonRoot":             field(pod, "securityContext", "runAsNonRoot") == true,
		"the user of the image":    strings.Contains(read(t, "../Dockerfile"), fmt.Sprintf("\nUSER %v:%v\n", field(pod, "securityContext", "runAsUser"), field(pod, "securityContext", "runAsGroup"))),
		"seccompProfile":           field(pod, "securityContext", "seccompProfile", "type") == "RuntimeDefault",
		"allowPrivilegeEscalation": field(container, "securityContext", "allowPrivilegeEscalation") == false,
		"capabilities":             fmt.Sprint(field(container, "securityContext", "capabilities")) == "map[drop:[ALL]]",
		"readOnlyRootFilesystem":   field(container, "securityContext", "readOnlyRootFilesystem") == true,
		"no token":                 field(pod, "automountServiceAccountToken") == false,
		"requests":                 field(container, "resources", "requests", "memory") != nil && field(container, "resources", "requests", "cpu") != nil,
	} {
		if !is {
			t.Errorf("the pod lacks: %s", what)
		}
	}
}

func port(t *testing.T, address string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ports returns those of a rule, by number.
func ports(rule any, named map[string]int) (numbers []int) {
	for _, p := range list(field(rule, "ports")) {
		switch p := field(p, "port").(type) {
		case int:
			numbers = append(numbers, p)
		case string:
			numbers = append(numbers, named[p])
		}
	}
	slices.Sort(numbers)
	return numbers
}

// The README tells of every manifest, and of none that is not there.
func TestKubernetesREADME(t *testing.T) {
	text := read(t, filepath.Join(kubernetesDir, "README.md"))
	for _, m := range regexp.MustCompile(`\]\(([\w-]+\.yaml)\)`).FindAllStringSubmatch(text, -1) {
		read(t, filepath.Join(kubernetesDir, m[1]))
	}
	files, err := filepath.Glob(kubernetesDir + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.Contains(text, "("+filepath.Base(file)+")") {
			t.Errorf("README.md does not tell of %s", file)
		}
	}
}
