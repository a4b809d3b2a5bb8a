// Package fault collects what is wrong with what a user gave, so that all of it is said at once.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/godistlock/distlock/internal/lockerr"
)

// List is what is wrong, in the order in which it was found.
type List []error

// Invalid adds nonsense: field was given as value; reason says what is wrong and what to do. It matches ErrInvalid, and what a %w
// in reason wraps.
func (l *List) Invalid(field string, value any, reason string, args ...any) {
	args = append([]any{lockerr.ErrInvalid, field, value}, args...)
	*l = append(*l, fmt.Errorf("%w %s %v: "+reason, args...))
}

// Limit adds what is beyond a bound of the library. It matches ErrLimit.
func (l *List) Limit(bound string, args ...any) {
	*l = append(*l, fmt.Errorf("%w: "+bound, append([]any{lockerr.ErrLimit}, args...)...))
}

// Label adds a fault when text, to be shown to people, is empty, has more than limit bytes or cannot be printed.
func (l *List) Label(field, text string, limit int) {
	switch {
	case text == "":
		l.Invalid(field, `""`, "it is empty; use 1 to %d bytes", limit)
	case len(text) > limit:
		l.Invalid(field, fmt.Sprintf("%q…", text[:limit]), "it has %d bytes; use at most %d", len(text), limit)
	case strings.ContainsFunc(text, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }):
		l.Invalid(field, fmt.Sprintf("%q", text), "use printable UTF-8 only")
	}
}

// Unsupported adds that feature is not built yet.
func (l *List) Unsupported(feature string) { *l = append(*l, Unsupported(feature)) }

// Err is all of it in one error, nil when nothing is wrong.
func (l List) Err() error { return errors.Join(l...) }

// Unsupported is the answer of what is declared but not built yet. It matches errors.ErrUnsupported.
func Unsupported(feature string) error {
	return fmt.Errorf("distlock: %s is not built yet: %w", feature, errors.ErrUnsupported)
}
