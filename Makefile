# What a contributor runs. The steps are those of CI, in .ci/run.
.PHONY: help test race lint vet vulncheck format fuzz malice chaos faults first-start fleet quiet rolling-versions netns ci demo guards guardcost shop deploy bench gobench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## all tests, as in the README
	.ci/run tests

race: ## all tests under the race detector
	.ci/run race

lint: ## gofmt and the linter that tools/go.mod pins
	.ci/run format lint

vet: ## go vet for Linux, macOS and Windows
	.ci/run vet

vulncheck: ## known vulnerabilities that the code can reach, by the version that tools/go.mod pins; needs https://vuln.go.dev (VULNDB=file://… for a copy)
	.ci/run vuln

format: ## rewrite the code as gofmt wants it
	gofmt -w .

fuzz: ## every fuzz target for ten minutes each, some hours (FUZZTIME=1m for so long, FUZZTIME=4000x for so many inputs, as in CI)
	FUZZTIME=$${FUZZTIME:-10m} .ci/run fuzz

malice: ## 100,000 random, cut, changed, replayed and oversized payloads at a cluster under load; half a minute (DISTLOCK_MALICE=… for so many)
	DISTLOCK_MALICE=$${DISTLOCK_MALICE:-100000} go test -v -count=1 -timeout 1h -run '^TestMalice$$' .

chaos: ## long runs under load and faults: real processes that are killed, paused and updated, then clusters in virtual time (DISTLOCK_SEEDS=… for so many)
	DISTLOCK_CHAOS=1 go test -v -count=1 -timeout 2h ./internal/proctest
	DISTLOCK_SEEDS=$${DISTLOCK_SEEDS:-100} go test -count=1 -timeout 6h -run TestVirtual .

faults: ## every operation of the log fails once in every way, in a cluster under load
	DISTLOCK_FAULTS=1 go test -v -count=1 -timeout 2h -run TestRaftSurvivesEvery ./internal/raftlog

first-start: ## the first start: 10,000 simulated ones with their figures and a fault at each step (SEEDS=… for so many), then 350 of whole members in virtual time; three minutes
	go test -v -count=1 -timeout 2h -run 'Test(Sim|OneFault|EachCut|Cut|Expect|TwoUnopened)' ./internal/founding -founding.seeds=$${SEEDS:-10000}
	DISTLOCK_SEEDS=$${DISTLOCK_SEEDS:-50} go test -count=1 -timeout 2h -run 'TestVirtual(FirstStart|TooFew)' .

fleet: ## fleets in virtual time: the death of a leader costs nobody else a lock, and how long news takes; some minutes (DISTLOCK_FLEET=1000 for so many members, which takes an hour)
	DISTLOCK_FLEET=$${DISTLOCK_FLEET:-300} go test -v -count=1 -timeout 2h -run TestVirtualFleet . ./internal/gossip

quiet: ## no election while all processors are busy with other things, for an hour (DISTLOCK_QUIET=2m for so long, as in CI)
	DISTLOCK_QUIET=$${DISTLOCK_QUIET:-1h} .ci/run quiet

REF ?= 4f0aeab
rolling-versions: ## processes of an earlier commit are replaced one by one by those of the present one, under load; half a minute (REF=… for another commit than the last whose log has format 1; 28dcb39 is the last with format 2, ded3fad with format 3)
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; trap 'exit 130' INT TERM; \
	git archive --format=tar -o "$$dir/old.tar" $(REF); mkdir "$$dir/old"; tar -x -f "$$dir/old.tar" -C "$$dir/old"; \
	go -C "$$dir/old" test -c -o "$$dir/old-member" ./internal/proctest; \
	DISTLOCK_OLD_MEMBER="$$dir/old-member" go test -v -count=1 -timeout 20m -run TestRollingVersions ./internal/proctest

netns: ## real processes in network namespaces (Linux; root, or user namespaces): DNS, new addresses, kills, cuts; a minute or two
	.ci/run netns

ci: ## all that CI runs
	.ci/run

demo: ## the demo
	go run ./examples/demo

guards: ## fences on PostgreSQL, MariaDB, SQLite, Redis, gRPC and an object store; the servers run for the tests' time only, from Debian's packages where they are not installed
	.ci/run guards

guardcost: ## what a guard costs a transaction on PostgreSQL, MariaDB and SQLite, a write of Redis, and a call of gRPC
	.ci/databases postgres mariadb -- go -C internal/sqltest test -run '^$$' -bench . -benchtime 2000x .
	.ci/databases redis -- go -C contrib/storetest test -run '^$$' -bench . -benchtime 10000x .
	go -C contrib/grpcfence test -run '^$$' -bench . -benchmem .

shop: ## a service over SQLite, without locks, with locks and with fences
	go -C examples/shop run .

deploy: ## the manifests of examples/ decoded strictly and judged; nothing is deployed
	.ci/run deploy

bench: ## the figures of docs/benchmarks.md, in about twenty-five minutes (BENCH='-parts failover' for some), then gobench
	go run ./internal/bench $(BENCH)
	$(MAKE) gobench

gobench: ## the Go benchmarks of every package
	go test -run '^$$' -bench . -benchmem ./...

clean: ## remove what was built here
	rm -rf bin
