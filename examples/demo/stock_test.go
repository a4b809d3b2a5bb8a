package main

import (
	"strings"
	"testing"
)

var (
	one = writer{"shop-1", 11, 1}
	two = writer{"shop-2", 22, 1}
)

func TestStockWithoutLocksOversells(t *testing.T) {
	var s stock
	s.restart(10)
	read := s.units
	for order := range uint64(3) { // three customers saw the same stock
		if !s.write(writer{"shop-1", 11, order}, read-1, -1, 0) {
			t.Fatal("a write without a fence was refused")
		}
	}
	if s.sold != 3 || s.units != 9 || s.oversold() != 2 {
		t.Errorf("sold %d, %d left, oversold %d", s.sold, s.units, s.oversold())
	}
	if len(s.faults) > 0 || s.handoffs > 0 {
		t.Errorf("without a fence there is nothing to check: %q, %d handoffs", s.faults, s.handoffs)
	}
}

func TestStockRefusesStaleFence(t *testing.T) {
	var s stock
	s.restart(10)
	if !s.write(one, 9, -1, 100) || !s.write(two, 8, -1, 101) {
		t.Fatal("rising fences were refused")
	}
	if s.write(one, 9, -1, 100) {
		t.Error("a fence below the greatest was admitted")
	}
	if s.units != 8 || s.sold != 2 || s.rejected != 1 || s.handoffs != 1 || s.oversold() != 0 || len(s.faults) > 0 {
		t.Errorf("%+v", s)
	}
	s.restart(50)
	if s.write(two, 49, -1, 100) {
		t.Error("the greatest fence was forgotten with the books")
	}
}

func TestStockOneGrantMayWriteTwice(t *testing.T) {
	var s stock
	s.restart(0)
	if !s.write(one, 100, 100, 100) || !s.write(one, 99, -1, 100) {
		t.Fatal("refused")
	}
	if len(s.faults) > 0 || s.delivered != 100 || s.sold != 1 || s.units != 99 || s.oversold() != 0 {
		t.Errorf("%+v", s)
	}
}

func TestStockNamesFaults(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes func(s *stock)
		want   string
	}{
		{"one fence, two orders", func(s *stock) { s.write(one, 9, -1, 100); s.write(two, 8, -1, 100) }, "fence 100 was given to order 1 of shop-1"},
		{"one fence, two processes of a shop", func(s *stock) { s.write(one, 9, -1, 100); s.write(writer{"shop-1", 12, 1}, 8, -1, 100) }, "(pid 12)"},
		{"a lost update", func(s *stock) { s.write(one, 9, -1, 100); s.write(two, 9, -1, 101) }, "changed a stock of 10, but it was 9"},
		{"below zero", func(s *stock) { s.restart(0); s.write(one, -1, -1, 100) }, "wrote a stock of -1"},
	} {
		var s stock
		s.restart(10)
		test.writes(&s)
		if len(s.faults) == 0 || !strings.Contains(strings.Join(s.faults, "\n"), test.want) {
			t.Errorf("%s: %q, want %q", test.name, s.faults, test.want)
		}
	}
}
