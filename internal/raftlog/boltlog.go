package raftlog

import "fmt"

// commitLogger is bbolt's Logger. It logs nothing. While armed, which is during Commit, it panics when bbolt reports an error: bbolt reports
// a failed write or sync just before it rolls back, which must not happen on a bad disk (see bolt.update).
type commitLogger struct {
	armed bool // touched by the writer only
}

// commitFailure is what the panic carries.
type commitFailure struct{ error }

func (l *commitLogger) Errorf(format string, args ...any) {
	if !l.armed {
		return
	}
	for _, a := range args {
		if err, ok := a.(error); ok {
			panic(commitFailure{err})
		}
	}
	panic(commitFailure{fmt.Errorf(format, args...)})
}

func (l *commitLogger) Debugf(string, ...any)   {}
func (l *commitLogger) Infof(string, ...any)    {}
func (l *commitLogger) Warningf(string, ...any) {}
func (l *commitLogger) Debug(...any)            {}
func (l *commitLogger) Info(...any)             {}
func (l *commitLogger) Warning(...any)          {}
func (l *commitLogger) Error(...any)            {}

// What bbolt calls fatal must not end the process, as its own logger would.
func (l *commitLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l *commitLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l *commitLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l *commitLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
