// Package sqltest proves SQLGuard on real databases: Postgres by pgx, MariaDB by go-sql-driver/mysql and SQLite by modernc.org/sqlite.
// It is a module of its own, so that the library depends on no driver.
package sqltest
