//go:build !race

package founding

const defaultSeeds = 10000
