package main

import (
	"crypto/sha256"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// A fileWatch tells when the files of a configuration have changed. It looks
// at what they say, not at their times: a Kubernetes ConfigMap changes by a
// symlink that is swapped above the files, a restored backup has old times,
// and a touched file has not changed.
type fileWatch struct {
	path   string   // what -c says
	files  []string // what the last load read besides
	loaded snapshot
	last   snapshot
}

// A snapshot is what files said at a time: name to digest.
type snapshot map[string][sha256.Size]byte

// before is called before a load, so that what changes during it is seen.
func (w *fileWatch) before() snapshot { return w.take(nil) }

// after is called after a load, good or bad, with the files it has read.
func (w *fileWatch) after(before snapshot, files []string) {
	w.files = files
	w.loaded = w.take(before)
	w.last = w.loaded
}

// changed reports whether the files differ from what was loaded and stand
// still since the last look: half a file is not worth a reload.
func (w *fileWatch) changed() bool {
	now := w.take(nil)
	still := maps.Equal(now, w.last)
	w.last = now
	return still && !maps.Equal(now, w.loaded)
}

// take digests all files, save those already known.
func (w *fileWatch) take(known snapshot) snapshot {
	s := snapshot{}
	for _, name := range append(w.listing(), w.files...) {
		digest, ok := known[name]
		if !ok {
			digest = digestFile(name)
		}
		s[name] = digest
	}
	return s
}

// listing returns the configuration files that -c names, new ones too.
func (w *fileWatch) listing() []string {
	info, err := os.Stat(w.path)
	if err != nil || !info.IsDir() {
		return []string{w.path}
	}
	entries, err := os.ReadDir(w.path)
	if err != nil {
		return []string{w.path}
	}
	var names []string
	for _, e := range entries {
		if isConfigName(e.Name()) {
			names = append(names, filepath.Join(w.path, e.Name()))
		}
	}
	return names
}

// isConfigName reports whether a file of a directory belongs to the
// configuration, as config.Load decides it.
func isConfigName(name string) bool {
	return !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".hcl") || strings.HasSuffix(name, ".hcl.json"))
}

// maxWatched bounds what is read of one file; no configuration is as long.
const maxWatched = 16 << 20

// digestFile returns the digest of what a file says. One that cannot be read,
// or is no regular file and might block, has the digest of nothing.
func digestFile(name string) [sha256.Size]byte {
	h := sha256.New()
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		if f, err := os.Open(name); err == nil {
			defer f.Close()
			io.WriteString(h, "is there\x00") // an empty file is not a missing one
			io.Copy(h, io.LimitReader(f, maxWatched))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}
