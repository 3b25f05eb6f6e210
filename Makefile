# Each target does its own set-up on a fresh Debian, as root.
#
#   make demo   the main job end to end on real files; ends with `N passed, N failed`
#   make test   lints, and all tests, unprivileged and root; ends with `N passed, N failed`
#   make lint   formatting and clippy only
#   make soak   100,000 random operations on real pools, compared byte for byte; a new seed each time, which it prints
#   make clean  removes what was built

SHELL := /bin/bash
CARGO := PATH="$$HOME/.cargo/bin:$$PATH" cargo
FEATURES := root-tests,failpoints

.PHONY: all demo test lint soak build clean

all: build

build:
	@e2e/setup.sh build
	$(CARGO) build --release

demo: build
	@target/release/windlass demo

test:
	@e2e/run-tests.sh

lint:
	@e2e/setup.sh test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features $(FEATURES) -- -D warnings

soak:
	@e2e/setup.sh test
	WINDLASS_RANDOM_OPERATIONS=100000 WINDLASS_RANDOM_SEED=$${WINDLASS_RANDOM_SEED:-$$(date +%s)} \
		$(CARGO) test --features $(FEATURES) --test root_random_operations -- --nocapture

clean:
	rm -rf target
