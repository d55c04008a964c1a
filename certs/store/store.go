// Package store keeps what must outlive a process and what replicas share:
// accounts, keys, certificates, challenges. Dir is a directory; the interface
// is small enough for Kubernetes Secrets and Leases.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A Store keeps small values by key. Its methods may be called from any
// goroutine, and by several processes at once. Their errors name the store and
// say what to do.
//
// A key is a path: elements of lower case letters, digits and "-_.", not
// beginning with a dot, between slashes. No key may lie below another.
type Store interface {
	// Get returns a value, or an error that is ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)

	// Put sets a value. Whoever reads it meanwhile, or after a crash, finds
	// the old one or the new one, whole.
	Put(ctx context.Context, key string, data []byte) error

	// Delete removes a value. That there is none is no error.
	Delete(ctx context.Context, key string) error

	// List returns the keys that begin with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)

	// Lock waits until nobody else holds the lock of that name, a key, and
	// takes it. It is given back by unlock, or by the death of the process.
	Lock(ctx context.Context, name string) (unlock func(), err error)

	// String names the store for people.
	String() string
}

var (
	// ErrNotFound says that a key has no value.
	ErrNotFound = errors.New("not in the store")

	// ErrVersion says that a store was written by a version of the program
	// that keeps things in another way.
	ErrVersion = errors.New("a store of another version")
)

// MaxValue bounds what a store takes as a value.
const MaxValue = 1 << 20

// maxElement is how long a name may be on common file systems.
const maxElement = 255

// checkKey says what is wrong with a key.
func checkKey(key string) error {
	for element := range strings.SplitSeq(key, "/") {
		switch {
		case element == "":
			return fmt.Errorf("store: key %q has an empty element", key)
		case element[0] == '.':
			return fmt.Errorf("store: key %q has an element that begins with a dot", key)
		case len(element) > maxElement:
			return fmt.Errorf("store: key %q has an element of more than %d bytes", key, maxElement)
		}
		for _, c := range []byte(element) {
			if !('a' <= c && c <= 'z') && !('0' <= c && c <= '9') && c != '-' && c != '_' && c != '.' {
				return fmt.Errorf("store: key %q may hold lower case letters, digits and \"-_.\" only", key)
			}
		}
	}
	return nil
}
