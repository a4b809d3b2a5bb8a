package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// targetSecret is how much longer a lock may take, and how much less may be done, with a secret than without.
const targetSecret = 1.15

// benchSecret is a secret that is none.
var benchSecret = strings.Repeat("measured", 4)

// secrets compares two clusters that stand side by side, one with a secret and one without, in short rounds by turns: the machine is as busy for
// the one as for the other.
func (b *bench) secrets(ctx context.Context) error {
	rows := [][]string{{"log", "taken by", "callers", "rounds", "pairs/s, open", "with a secret", "ratio", "Lock p50, open", "with a secret", "ratio"}}
	for _, store := range b.stores {
		more, err := b.secretsOn(ctx, store)
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	writeTable(b.out, "With a secret and without, medians of rounds by turns", rows)
	return nil
}

func (b *bench) secretsOn(ctx context.Context, store string) (rows [][]string, err error) {
	var fleets [2]*fleet // open, with a secret
	defer func() {
		for _, f := range fleets {
			if f != nil {
				err = errors.Join(err, f.end())
			}
		}
	}()
	for i, secret := range []string{"", benchSecret} {
		if fleets[i], err = b.startSecretFleet(ctx, store, fmt.Sprintf("%s%d", partSecret, i), secret); err != nil {
			return nil, err
		}
	}
	for _, callers := range b.callers {
		for _, from := range b.from {
			b.note("secret: %s, %d callers, taken by the %s", store, callers, from)
			var perSecond, p50 [2][]float64
			for round := range b.rounds {
				for turn := range fleets {
					i := (round + turn) % len(fleets) // neither is always the first
					leader, err := fleets[i].whole(ctx)
					if err != nil {
						return nil, err
					}
					r, _, err := b.measureLoad(ctx, fleets[i], leader, place(from, leader), fmt.Sprintf("%s-%s-%d-%d", store, from, callers, i), callers)
					if err != nil {
						return nil, err
					}
					perSecond[i], p50[i] = append(perSecond[i], r.PerSecond), append(p50[i], float64(r.P50))
				}
			}
			open, closed := middle(perSecond[0]), middle(perSecond[1])
			took, takes := middle(p50[0]), middle(p50[1])
			rows = append(rows, []string{
				store, from, fmt.Sprint(callers), fmt.Sprint(b.rounds), grouped(int64(open)), grouped(int64(closed)),
				fmt.Sprintf("%.2f", closed/open) + judged(open/closed <= targetSecret, "at least %.2f", 1/targetSecret),
				short(time.Duration(took)), short(time.Duration(takes)), fmt.Sprintf("%.2f", takes/took) + judged(takes/took <= targetSecret, "at most %.2f", targetSecret),
			})
		}
	}
	return rows, nil
}

func middle(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}
