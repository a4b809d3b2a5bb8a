//go:build !race

package distlock

const underRace = false
