# Few verbs; each installs what it lacks, or says what is missing.

DEMO_ARGS ?=
FUZZ_SECONDS ?= 60
CONFORMANCE_ARGS ?=
STRESS_SECONDS ?= 300
LEAKS_GROUP ?= 10
ROUTING_TIMES ?= 10000
FAILOVER_ARGS ?=
FENCE_RUNS ?= 100
SEEDS ?= 1000000
SEED ?=
FIRST ?=
CARGO ?= cargo

.PHONY: help build demo test sim stress leaks routing negative-control lint docs bench failover-bench fence fuzz conformance
.NOTPARALLEL:

help:
	@echo 'howdah: one PostgreSQL endpoint in front of a primary and its standbys'
	@echo
	@echo '  make demo         a primary, two standbys and howdah in front, with a live workload. Ctrl-C removes it all'
	@echo "                    DEMO_ARGS='--for 10s --clients 64' goes to howdah demo"
	@echo '  make test         formatting, lints, and every test: unit, integration with real PostgreSQL and drivers, docs'
	@echo '  make sim          the coordinator against SEEDS ($(SEEDS)) simulated runs of failures, from FIRST (1) on; SEED=17 runs one'
	@echo '                    again and tells everything that happens'
	@echo '  make stress       never a foreign answer, for STRESS_SECONDS ($(STRESS_SECONDS)); prints its seed'
	@echo '  make leaks        what one client sets no other sees, and it keeps itself: every setting, in every way. Minutes;'
	@echo '                    LEAKS_GROUP=1 tries each setting alone and takes an hour'
	@echo '  make routing      nobody reads the past, ROUTING_TIMES ($(ROUTING_TIMES)) times at every delay, and what writing costs. Minutes'
	@echo '  make negative-control  all of it against builds with known defects, which must be caught'
	@echo '  make build        target/release/howdah'
	@echo '  make lint         formatting and lints alone'
	@echo '  make docs         writes docs/configuration.md and config/howdah.reference.toml from src/config'
	@echo '  make bench        howdah and PgBouncer side by side'
	@echo '  make failover-bench  how long clients wait, and what they lose, when the primary dies or moves. An hour;'
	@echo "                    FAILOVER_ARGS='--runs 5 kill stop' plays some"
	@echo '  make fence        orphans of the postmaster are gone before anybody is promoted, FENCE_RUNS ($(FENCE_RUNS)) times'
	@echo '  make fuzz         each fuzz target for FUZZ_SECONDS ($(FUZZ_SECONDS))'
	@echo "  make conformance  PostgreSQL's own tests directly and through howdah, in session and in transaction mode"
	@echo "                    CONFORMANCE_ARGS='--mode transaction --only \"guc temp\"' goes to scripts/conformance"

build:
	@scripts/need rust
	$(CARGO) build --release

demo:
	@scripts/need rust postgres
	$(CARGO) build --release
	@$(CARGO) run --release --quiet -- demo $(DEMO_ARGS)

test: lint
	@scripts/need postgres python node pgbouncer
	@scripts/drivers
	@scripts/test

sim:
	@scripts/need rust
	SEEDS=$(SEEDS) SEED=$(SEED) FIRST=$(FIRST) $(CARGO) test --package howdah-sim --test sim -- whatever --nocapture

stress:
	@scripts/need rust postgres
	HOWDAH_STRESS_SECONDS=$(STRESS_SECONDS) $(CARGO) test --release --test it foreign::hundreds -- --ignored --nocapture

leaks:
	@scripts/need rust postgres
	HOWDAH_LEAKS_GROUP=$(LEAKS_GROUP) $(CARGO) test --release --test it leaks::everything -- --ignored --nocapture

routing:
	@scripts/need rust postgres
	HOWDAH_ROUTING_TIMES=$(ROUTING_TIMES) $(CARGO) test --release --test it consistency::long -- --ignored --nocapture

negative-control:
	@scripts/need rust postgres
	$(CARGO) test --test it -- foreign::a_build leaks::a_build consistency::a_build faults::a_build --ignored --test-threads=1 --nocapture

lint:
	@scripts/need rust lint
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

docs:
	@scripts/need rust
	HOWDAH_WRITE_DOCS=1 $(CARGO) test --quiet --test reference

bench:
	@scripts/need rust postgres pgbouncer
	$(CARGO) bench --bench compare

failover-bench:
	@scripts/need rust postgres
	$(CARGO) bench --bench failover -- $(FAILOVER_ARGS)

fence:
	@scripts/need rust postgres
	HOWDAH_FENCE_RUNS=$(FENCE_RUNS) $(CARGO) test --test it fencing:: -- --nocapture

fuzz:
	@scripts/need rust fuzz
	@scripts/fuzz $(FUZZ_SECONDS)

conformance:
	@scripts/conformance $(CONFORMANCE_ARGS)
