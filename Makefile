# Each target does its own set-up on a fresh Debian, as root.
#
#   make demo   the main job end to end on real files; ends with `N passed, N failed`
#   make test   lints, and all tests, unprivileged and root; ends with `N passed, N failed`
#   make fuzz   feeds made-up bytes to whatever reads those of others, FUZZ_SECONDS (60) a target; ends with `N passed, N failed`
#   make lint   formatting and clippy only
#   make clean  removes what was built

SHELL := /bin/bash
CARGO := PATH="$$HOME/.cargo/bin:$$PATH" cargo
FEATURES := root-tests,failpoints

.PHONY: all demo test fuzz lint build clean

all: build

build:
	@e2e/setup.sh build
	$(CARGO) build --release

demo: build
	@target/release/windlass demo

test:
	@e2e/run-tests.sh

fuzz:
	@e2e/run-fuzz.sh

lint:
	@e2e/setup.sh test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features $(FEATURES) -- -D warnings

clean:
	rm -rf target
