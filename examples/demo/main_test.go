package main

import (
	"os"
	"testing"
)

// playDemo makes the test's binary the demo, so that its tests run real processes without building anything.
const playDemo = "DISTLOCK_TEST_PLAY_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(playDemo) != "" {
		main()
	}
	os.Exit(m.Run())
}
