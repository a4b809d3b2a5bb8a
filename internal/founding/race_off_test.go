//go:build !race

package founding

const (
	defaultSeeds = 5000
	raceDetector = false
)
