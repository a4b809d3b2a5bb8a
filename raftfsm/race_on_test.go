//go:build race

package raftfsm

const raceEnabled = true // everything takes ten times as long and as much memory
