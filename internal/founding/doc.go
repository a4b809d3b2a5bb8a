// Package founding decides how processes that know no cluster come to have exactly one.
package founding
