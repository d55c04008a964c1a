package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A change is reported when it has stood still for a look, and once a load has
// seen it, good or bad, no more.
func TestFileWatch(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("gw.hcl", "one")
	write("secret", "a")
	w := &fileWatch{path: dir}
	load := func() { w.after(w.before(), []string{filepath.Join(dir, "secret")}) }
	load()

	looks := func(what string, want ...bool) {
		t.Helper()
		for i, changed := range want {
			if got := w.changed(); got != changed {
				t.Errorf("%s: look %d: changed is %v", what, i+1, got)
			}
		}
	}
	looks("nothing", false, false)

	write("gw.hcl", "two")
	looks("a change", false, true, true)
	load()
	looks("a change that was loaded", false, false)

	write("gw.hcl", "thr")
	looks("the first half of a change", false)
	write("gw.hcl", "three")
	looks("the second half of a change", false, true)
	load()

	write("gw.hcl", "oops")
	write("gw.hcl", "three")
	looks("a change that was taken back", false, false)

	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "gw.hcl"), later, later); err != nil {
		t.Fatal(err)
	}
	looks("a touched file", false, false)

	write("second.hcl", "")
	looks("a new, empty file", false, true)
	load()
	write(".hidden.hcl", "")
	write("notes.txt", "")
	looks("files that are no configuration", false, false)

	write("secret", "b")
	looks("a file that file() has read", false, true)
	load()

	if err := os.Remove(filepath.Join(dir, "second.hcl")); err != nil {
		t.Fatal(err)
	}
	looks("a file that is gone", false, true)
	load()

	// What changes while a load reads is not taken for loaded.
	before := w.before()
	write("gw.hcl", "four")
	w.after(before, w.files)
	looks("a change during a load", false, true)
}
