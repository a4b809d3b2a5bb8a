//go:build unix

package proctest

import "testing"

func TestUnexcused(t *testing.T) {
	pauses := []pause{{"a", 100}}
	for _, test := range []struct {
		name string
		loss loss
		bad  bool
	}{
		{"paused while it had the session", loss{Process: "a", Since: 50, At: 150}, false},
		{"another process was paused", loss{Process: "b", Since: 50, At: 150}, true},
		{"another life of it was paused", loss{Process: "a/2", Since: 50, At: 150}, true},
		{"paused before it had the session", loss{Process: "a", Since: 110, At: 150}, true},
		{"paused after the loss", loss{Process: "a", Since: 50, At: 90}, true},
	} {
		if bad := len(unexcused([]loss{test.loss}, pauses)) > 0; bad != test.bad {
			t.Errorf("%s: unexcused %v", test.name, bad)
		}
	}
}
