//go:build unix

package proctest

import (
	"encoding/json"
	"testing"
)

// olderProtocol: what is said to processes of an earlier commit, and what they say, is what it was, letter by letter.
func olderProtocol(t *testing.T) {
	same[command](t,
		`{"id":1,"do":"join","timeout":30000000000,"config":{"process":"m1/1","name":"m1","bind":"127.0.0.1:1","peers":["127.0.0.1:2"],"expect":3,`+
			`"dir":"d","ttl":4000000000}}`,
		`{"id":2,"do":"lock","key":"k","timeout":30000000000}`,
		`{"id":3,"do":"trylock","key":"k"}`,
		`{"id":4,"do":"status"}`,
		`{"id":5,"do":"load","load":{"workers":3,"keys":2,"hold":2000000,"rest":1000000,"seed":7}}`,
		`{"id":6,"do":"leave","timeout":500000000}`,
	)
	same[answer](t,
		`{"id":2,"fence":7,"at":9}`,
		`{"id":3,"error":"held","is":["ErrHeld"],"at":9}`,
		`{"hold":{"process":"m1/1","key":"k","fence":7,"asked":1,"granted":2,"kept":3,"ended":4}}`,
		`{"loss":{"process":"m1/1","since":1,"at":2,"cause":"session lost"}}`,
		`{"fault":"m1/1: Lock(k): closed"}`,
	)
	status := hear[answer](t, `{"id":4,"at":9,"status":{"Name":"m1","Addr":"127.0.0.1:1","Role":"voter","Leader":"m2","Ready":true,`+
		`"Members":[{"Name":"m2","Addr":"127.0.0.1:2","Role":"client","Leader":true,"State":"alive"}],"Conflicts":null}}`).Status
	if status == nil || !status.Ready || status.Leader != "m2" || len(status.Members) != 1 || status.Members[0].State != "alive" {
		t.Errorf("status %+v", status)
	}
	locks := hear[answer](t, `{"id":5,"at":9,"locks":[{"Key":"k","Mode":"exclusive","Limit":0,"Holders":[{"Member":"m1","Fence":7,"Weight":1,`+
		`"Since":"2026-01-02T03:04:05Z","Detached":false,"Value":null}],"Waiters":[{"Member":"m2","Since":"2026-01-02T03:04:05Z"}]}]}`).Locks
	if len(locks) != 1 || len(locks[0].Holders) != 1 || locks[0].Holders[0].Fence != 7 || len(locks[0].Waiters) != 1 {
		t.Errorf("locks %+v", locks)
	}
}

// same reads lines and says them again.
func same[T any](t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		b, err := json.Marshal(hear[T](t, line))
		if err != nil || string(b) != line {
			t.Errorf("%s\nis said as %s, %v", line, b, err)
		}
	}
}

func hear[T any](t *testing.T, line string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Errorf("%s: %v", line, err)
	}
	return v
}
