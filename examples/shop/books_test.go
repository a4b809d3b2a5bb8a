package main

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/godistlock/distlock"
)

// TestPatiently has one write while another one has SQLite's only place for writers, and gives up waiting for it at once.
func TestPatiently(t *testing.T) {
	t.Parallel()
	b := books{Database: distlock.SQLite, File: filepath.Join(t.TempDir(), "test.db")}
	db, err := b.open()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	impatient, err := sql.Open("sqlite", b.File+"?_pragma=busy_timeout(1)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	writer, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback()
	tries := 0
	if err := patiently(t.Context(), func() error {
		if tries++; tries == 3 {
			if err := writer.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		tx, err := impatient.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		return tx.Rollback()
	}); err != nil || tries != 3 {
		t.Errorf("%d tries, %v", tries, err)
	}
}
