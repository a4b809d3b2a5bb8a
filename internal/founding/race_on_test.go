//go:build race

package founding

const (
	defaultSeeds = 500 // a tenth of the speed
	raceDetector = true
)
