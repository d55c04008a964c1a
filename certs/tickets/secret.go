package tickets

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	minSecret = 32
	maxSecret = 4096
	format    = 1
	prefix    = "tickets/"
)

// errDamaged is of what has our name and cannot be opened.
var errDamaged = errors.New("damaged")

// A secret seals keys for the store.
type secret struct {
	name string // in the store
	aead cipher.AEAD
}

// secret reads the file, or makes it.
func (o *Options) secret() (*secret, error) {
	text, err := readSecret(o.SecretFile)
	if errors.Is(err, fs.ErrNotExist) && o.Make {
		if err := makeSecret(o.SecretFile); err != nil {
			return nil, fmt.Errorf("make the secret of shared tickets: %w: let user id %d write there", err, os.Geteuid())
		}
		text, err = readSecret(o.SecretFile)
	}
	if err != nil {
		return nil, err
	}
	return newSecret(text)
}

func newSecret(text []byte) (*secret, error) {
	name, err := hkdf.Key(sha256.New, text, nil, "sallyport tickets: name", 8)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, text, nil, "sallyport tickets: key", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &secret{prefix + hex.EncodeToString(name), aead}, nil
}

// CheckSecret says what is wrong with a file of a secret, without reading more
// of the world.
func CheckSecret(file string) error {
	_, err := readSecret(file)
	return err
}

// readSecret returns what a file says, without the white space at its end that
// editors and shells leave.
func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, explain(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, explain(err)
	}
	switch text = bytes.TrimRight(text, " \t\r\n"); {
	case len(text) < minSecret:
		return nil, fmt.Errorf("%s has %d bytes, and a secret at least %d: make one with `openssl rand -hex 32`", file, len(text), minSecret)
	case len(text) > maxSecret:
		return nil, fmt.Errorf("%s has more than %d bytes, which no secret needs: make one with `openssl rand -hex 32`", file, maxSecret)
	}
	return text, nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let user id %d read it, and enter the directories above it", err, os.Geteuid())
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: make it with `(umask 077; openssl rand -hex 32 >FILE)`, the same for all replicas", err)
	}
	return err
}

// makeSecret makes a file that nobody else can read. Where several processes
// do so at once, all find what the first made: a link never replaces a file.
func makeSecret(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	text := make([]byte, minSecret)
	rand.Read(text)
	_, err = fmt.Fprintf(f, "%x\n", text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Link(f.Name(), file)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// An envelope is what the store holds.
type envelope struct {
	Format int       `json:"format"`
	Until  time.Time `json:"until"` // when the last key in it is void
	Sealed []byte    `json:"sealed"`
}

// bound is what the seal covers besides what is sealed.
func (e *envelope) bound(name string) []byte {
	return fmt.Appendf(nil, "sallyport tickets %d %s %s", e.Format, name, e.Until.UTC().Format(time.RFC3339))
}

// seal returns what the store may hold; the first key is the newest.
func (s *secret) seal(keys []key) ([]byte, error) {
	e := envelope{Format: format, Until: keys[0].From.Add(life)}
	plain, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	e.Sealed = s.aead.Seal(nil, nil, plain, e.bound(s.name))
	return json.Marshal(e)
}

// open is the reverse of seal.
func (s *secret) open(data []byte) (keys []key, err error) {
	e, err := parse(data)
	if err != nil {
		return nil, err
	}
	plain, err := s.aead.Open(nil, nil, e.Sealed, e.bound(s.name))
	if err != nil {
		return nil, fmt.Errorf("%w: it is not what was sealed", errDamaged)
	}
	if err := json.Unmarshal(plain, &keys); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	for _, k := range keys {
		if len(k.Secret) != 32 {
			return nil, fmt.Errorf("%w: a key of %d bytes", errDamaged, len(k.Secret))
		}
	}
	return keys, nil
}

func parse(data []byte) (e envelope, err error) {
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("%w: %w", errDamaged, err)
	}
	switch e.Format {
	case format:
		return e, nil
	case 0:
		return e, fmt.Errorf("%w: it has no format", errDamaged)
	}
	return e, fmt.Errorf("ticket keys of format %d, written by another version of this program, which knows %d: run the same version everywhere", e.Format, format)
}

// lifeOf returns until when something of what the store holds may be of use,
// whatever it is sealed under.
func lifeOf(data []byte) (time.Time, error) {
	var e envelope
	err := json.Unmarshal(data, &e)
	return e.Until, err
}
