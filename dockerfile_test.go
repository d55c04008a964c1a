package sallyport_test

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// The image is static, without a shell and without root. There is no Docker
// here, so its instructions are read, and the build line is run.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	build, final, ok := strings.Cut(string(text), "\nFROM scratch\n")
	if !ok {
		t.Fatal("the last stage must begin FROM scratch: what is not in the image cannot be attacked")
	}
	if strings.Contains(final, "\nFROM ") || strings.Contains(final, "\nRUN ") {
		t.Error("the last stage must be the one from scratch, and nothing can run in it")
	}
	if !regexp.MustCompile(`(?m)^USER [1-9]\d*:[1-9]\d*$`).MatchString(final) {
		t.Error("want USER with numbers other than 0: Kubernetes' runAsNonRoot cannot judge names")
	}
	user := regexp.MustCompile(`(?m)^USER (.*)$`).FindStringSubmatch(final)
	if user != nil && !strings.Contains(final, "\nCOPY --from=build --chown="+user[1]+" /out/state /var/lib/sallyport\n") {
		t.Error("want /var/lib/sallyport to be the user's: what an authority issues is kept there, and a volume begins as it")
	}
	for _, instruction := range []string{"ENTRYPOINT", "CMD"} {
		m := regexp.MustCompile(`(?m)^` + instruction + ` (.*)$`).FindStringSubmatch(final)
		var argv []string
		if m == nil || json.Unmarshal([]byte(m[1]), &argv) != nil || len(argv) == 0 {
			t.Errorf("want %s [\"…\"]: there is no shell to read another form", instruction)
		}
	}

	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)[1]
	if !strings.Contains(build, " golang:"+string(language)+"-") {
		t.Errorf("the build stage must use golang:%s, as go.mod says", language)
	}

	line := regexp.MustCompile(`(?m)^RUN (.*go build.*)$`).FindStringSubmatch(build)
	if line == nil {
		t.Fatal("no RUN … go build line")
	}
	dir := t.TempDir()
	command := strings.Replace(line[1], "-o /out/", "-o "+dir+"/", 1)
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	binary := filepath.Join(dir, "sallyport")
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP || prog.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static (%v): in an image from scratch it would not start", prog.Type)
		}
	}
	if runtime.GOOS != "linux" {
		return
	}
	// The image has no environment to speak of, and no home.
	start := exec.Command(binary, "version")
	start.Env, start.Dir = []string{}, "/"
	if out, err := start.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "sallyport ") {
		t.Errorf("sallyport version: %v\n%s", err, out)
	}
}
