//go:build race

package distlock

const underRace = true // everything is several times slower
