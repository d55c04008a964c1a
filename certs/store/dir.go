package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	versionFile = ".version"
	version     = "sallyport store 1\n"
	lockDir     = ".locks"
	tempPrefix  = ".new-"

	tempLife    = time.Hour   // after which a temporary file is a dead process's
	maxReading  = 64          // at a time: what hangs is never more
	lastMoment  = time.Second // in which a read may yet end when its ctx has
	lockPoll    = 10 * time.Millisecond
	maxLockPoll = 500 * time.Millisecond
)

// A Dir is a Store in a directory, which processes and machines may share if
// its file system has locks (NFS has). Nobody but its user can enter it. Its
// names with a leading dot are its own.
//
// Where its file system hangs, as those of a network do whose server is gone,
// who reads is told so when his ctx ends. Who writes waits: what came late
// could replace what is newer.
type Dir struct {
	path    string
	reading chan struct{} // holds a value for each that reads
}

var _ Store = (*Dir)(nil)

// Open returns the store in a directory. Nothing is looked at or created until
// it is used, and no directory is made before the first Put or Lock.
func Open(path string) *Dir { return &Dir{path, make(chan struct{}, maxReading)} }

// String returns "directory" and the path.
func (d *Dir) String() string { return "directory " + d.path }

// Get reads the file of a key.
func (d *Dir) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return patiently(ctx, d, "read "+key, func() ([]byte, error) { return d.get(key) })
}

func (d *Dir) get(key string) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	data, err := read(d.file(key))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %s is %w", d, key, ErrNotFound)
	case err != nil:
		return nil, d.explain("read "+key, err)
	}
	return data, nil
}

// Put writes a file beside that of the key, and gives it its name once the
// disk has it.
func (d *Dir) Put(_ context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(data) > MaxValue {
		return fmt.Errorf("%s: %s would be larger than %d bytes", d, key, MaxValue)
	}
	if err := d.make(); err != nil {
		return err
	}
	if err := write(d.file(key), data); err != nil {
		return d.explain("write "+key, err)
	}
	return nil
}

// Delete removes the file of a key.
func (d *Dir) Delete(_ context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	if err := os.Remove(d.file(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.explain("delete "+key, err)
	}
	return nil
}

// List looks at the files below the last directory that prefix names.
func (d *Dir) List(ctx context.Context, prefix string) ([]string, error) {
	return patiently(ctx, d, "list "+prefix, func() ([]string, error) { return d.list(prefix) })
}

// patiently reads, and leaves it when ctx ends before the read does.
func patiently[T any](ctx context.Context, d *Dir, doing string, read func() (T, error)) (T, error) {
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastMoment, cancel) })()
	hangs := func() (none T, err error) {
		return none, fmt.Errorf("%s: cannot %s: it does not answer: see that what it is mounted from is there: %w", d, doing, ctx.Err())
	}
	select {
	case d.reading <- struct{}{}:
	case <-over.Done():
		return hangs()
	}
	done := make(chan struct{})
	var value T
	var err error
	go func() {
		defer close(done)
		defer func() { <-d.reading }()
		value, err = read()
	}()
	select {
	case <-done:
		return value, err
	case <-over.Done():
		return hangs()
	}
}

func (d *Dir) list(prefix string) (keys []string, err error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	within, _ := path.Split(prefix)
	if within = strings.TrimSuffix(within, "/"); within != "" {
		if err := checkKey(within); err != nil {
			return nil, err
		}
	}
	err = filepath.WalkDir(d.file(within), func(name string, e fs.DirEntry, err error) error {
		key, _ := filepath.Rel(d.path, name)
		key = filepath.ToSlash(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // somebody deletes meanwhile
			return nil
		case err != nil:
			return err
		case key != "." && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
		case e.Type().IsRegular() && strings.HasPrefix(key, prefix) && checkKey(key) == nil:
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, d.explain("list "+prefix, err)
	}
	slices.Sort(keys)
	return keys, nil
}

// Lock locks a file that is there for nothing else and is never removed: who
// waited for a removed one would hold a lock that nobody else sees.
func (d *Dir) Lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := checkKey(name); err != nil {
		return nil, err
	}
	if err := d.make(); err != nil {
		return nil, err
	}
	locks := filepath.Join(d.path, lockDir)
	if err := os.Mkdir(locks, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, d.explain("lock "+name, err)
	}
	// No key has a plus sign.
	f, err := os.OpenFile(filepath.Join(locks, strings.ReplaceAll(name, "/", "+")), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, d.explain("lock "+name, err)
	}
	for wait := lockPoll; ; wait = min(2*wait, maxLockPoll) {
		held, err := tryLock(f)
		switch {
		case err != nil:
			f.Close()
			return nil, d.explain("lock "+name, err)
		case held:
			sign(f)
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			holder, _ := io.ReadAll(io.LimitReader(f, 100))
			f.Close()
			return nil, fmt.Errorf("%s: the lock %s is held (%q): %w", d, name, bytes.TrimSpace(holder), ctx.Err())
		case <-time.After(wait):
		}
	}
}

// sign says in a lock who holds it, for people who wait. The lock is good
// without.
func sign(f *os.File) {
	host, _ := os.Hostname()
	if f.Truncate(0) == nil {
		fmt.Fprintf(f, "process %d on %s\n", os.Getpid(), host)
	}
}

func (d *Dir) file(key string) string { return filepath.Join(d.path, filepath.FromSlash(key)) }

// check refuses a directory that is not for us. One that is not there, or has
// nothing in it yet, will be.
func (d *Dir) check() error {
	info, err := os.Stat(d.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return d.explain("look at it", err)
	case !info.IsDir():
		return fmt.Errorf("%s is none: name a directory", d)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s holds private keys and may be written by everybody: chmod 700 %s, or name a directory below it", d, d.path)
	}
	got, err := read(filepath.Join(d.path, versionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return d.explain("read "+versionFile, err)
	case string(got) != version:
		return fmt.Errorf("%s: %w: its %s says %q, and this program knows %q; use the program that wrote it, or name another directory",
			d, ErrVersion, versionFile, bytes.TrimSpace(got[:min(len(got), 40)]), strings.TrimSpace(version))
	}
	return nil
}

// make makes sure that there is a directory, and that others will know what
// is in it.
func (d *Dir) make() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return d.explain("create it", err)
	}
	if err := d.check(); err != nil {
		return err
	}
	file := filepath.Join(d.path, versionFile)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := write(file, []byte(version)); err != nil {
			return d.explain("write "+versionFile, err)
		}
	}
	return nil
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxValue+1))
	if err == nil && len(data) > MaxValue {
		err = fmt.Errorf("it is larger than %d bytes, which nothing is that was written here", MaxValue)
	}
	return data, err
}

// write replaces a file atomically and lastingly.
func write(file string, data []byte) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	sweep(dir)
	f, err := os.CreateTemp(dir, tempPrefix) // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

// sweep removes what processes left that died while they wrote.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tempLife {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// syncDir makes a rename last.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// explain adds to an error of the file system what to do about it.
func (d *Dir) explain(doing string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		advice = fmt.Sprintf(": let user id %d read and write there", os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		advice = ": mount it writable, or name another directory"
	case errors.Is(err, syscall.ENOSPC):
		advice = ": make room there, or name another directory"
	case errors.Is(err, syscall.ENOLCK), errors.Is(err, errors.ErrUnsupported):
		advice = ": its file system has no locks; name a directory on another one"
	case errors.Is(err, syscall.EDQUOT):
		advice = ": raise the quota, or name another directory"
	}
	return fmt.Errorf("%s: cannot %s: %w%s", d, doing, err, advice)
}
