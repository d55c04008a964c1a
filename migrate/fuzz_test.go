package migrate

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever the file holds, the result can be parsed, is in the one style, has
// each note as a comment, and check has nothing against it.
func fuzz(f *testing.F, program string) {
	paths, err := filepath.Glob(filepath.Join("testdata", program, "*.conf"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := File{Name: "fuzz.conf", Text: text}
		if _, err := Detect(file); err != nil && err != ErrUnknown {
			t.Fatal(err)
		}
		res, err := Convert(program, file, Options{Protocols: spoken()})
		if err != nil {
			return
		}
		checkNotes(t, res)
		checkHCL(t, res)
	})
}

func FuzzStunnel(f *testing.F) { fuzz(f, Stunnel) }
func FuzzNginx(f *testing.F)   { fuzz(f, Nginx) }
