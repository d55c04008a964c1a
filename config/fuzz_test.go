package config

import (
	"bytes"
	"os"
	"testing"
)

// Whatever the file holds, Load returns: with a configuration or with errors,
// each of which has a place.
func FuzzLoad(f *testing.F) {
	for _, dir := range []string{"testdata/bad", "testdata/good", "testdata/bad/25-directory"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range entries {
			if src, err := os.ReadFile(dir + "/" + e.Name()); err == nil && !bytes.HasSuffix([]byte(e.Name()), []byte(".txt")) {
				f.Add(src, bytes.HasSuffix([]byte(e.Name()), []byte(".json")))
			}
		}
	}
	if src, err := os.ReadFile("testdata/full.hcl"); err == nil {
		f.Add(src, false)
	}
	f.Fuzz(func(t *testing.T, src []byte, json bool) {
		name := "fuzz.hcl"
		if json {
			name += ".json"
		}
		cfg, diags := loadText(t, name, string(src), Options{})
		if (cfg == nil) != diags.HasErrors() {
			t.Fatalf("the configuration is %v, with %d errors", cfg, diags.Errors())
		}
		for _, d := range diags.list {
			if d.Subject == nil || d.Subject.Filename != name || d.Subject.Start.Line < 1 {
				t.Errorf("%q has no place: %v", d.Summary, d.Subject)
			}
		}
		diags.WriteTo(&bytes.Buffer{})
		if formatted, d := Format(src, name); !d.HasErrors() {
			if again, d := Format(formatted, name); d.HasErrors() || !bytes.Equal(formatted, again) {
				t.Errorf("formatting again changes %q to %q", formatted, again)
			}
		}
	})
}
