# Each target does its own set-up on a fresh Debian, as root.
#
#   make demo   the main job end to end on real files; ends with `N passed, N failed`
#   make test   lints, and all tests: unprivileged, root, and in virtual machines; of the long ones a share that turns with the commit;
#               ends with `N passed, N failed`
#   make test-full    the same with the whole of the long ones, and object stores that are not ours: MinIO, Azurite
#   make test-stores  those stores only
#   make test-thin    of these the tests that need device-mapper, in virtual machines, and power cuts; ends with `N passed, N failed`
#   make test-thin-full    the same with the whole of the long ones
#   make e2e    the driver in a Kubernetes cluster of two nodes on this machine: chart, image, scenarios; ends with `N passed, N failed`. The
#               programs of the cluster, and of the store that it exports to, are built once, which takes some 25 minutes of one processor
#   make e2e-velero   Velero's own data mover in such a cluster: three backups of volumes that are written to, a restore, what each costs; Velero and its
#               store are built once, which takes some six minutes of one processor; ends with `N passed, N failed`
#   make e2e-suite    Kubernetes' own tests of storage drivers (External.Storage) in such a cluster; builds them first, some 15 minutes of a
#               processor more; ends with `N passed, N failed`
#   make image  the image of the Dockerfile into target/windlass-image.tar, without a container engine and without a registry
#   make fuzz   feeds made-up bytes to whatever reads those of others, FUZZ_SECONDS (60) a target; ends with `N passed, N failed`
#   make lint   formatting and clippy only
#   make bench  speed, memory and space beside restic, borg, rustic and kopia; some 25 minutes, results in tests/bench/RESULTS.md
#   make bench-quick    the same with less data beside restic only, under two minutes once everything is built
#   make bench-memory   peak memory for volumes of 1 TiB and 16 TiB, sparse and full, made up as they are read; memory of one node that
#               makes a hundred exports and ten restores, and what it keeps of it
#   make bench-thin     thin pools beside lvm2, dmsetup and thin_delta, in a virtual machine: ratios; also target/bench/thin.json
#   make soak   100,000 random operations on real pools, compared byte for byte; a new seed each time, which it prints
#   make soak-repository    100 prunes of stock restic, stopped at every step, beside exports that want what they delete; a year of exports,
#               forgets, prunes, faults and kills on one repository; ten minutes of exporters, prunes of ours and of restic's and restores
#               at once; prints its seeds
#   make outages    stores that are away, busy, slow or silent, for minutes each: exports and restores as patient as the product's
#   make clean  removes what was built
#
# Whatever is built or logged lies in target, or in CARGO_TARGET_DIR if that is set.

SHELL := /bin/bash
# Where cargo builds, and the scripts with it (e2e/target.sh).
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CARGO := PATH="$$HOME/.cargo/bin:$$PATH" cargo
FEATURES := root-tests,failpoints,thin-tests

.PHONY: all demo test test-full test-stores test-thin test-thin-full e2e e2e-suite e2e-velero image fuzz soak soak-repository outages lint bench bench-quick bench-memory bench-thin build clean

all: build

build:
	@e2e/setup.sh build
	$(CARGO) build --release

demo: build
	@$(TARGET)/release/windlass demo

test:
	@e2e/run-tests.sh

test-full:
	@e2e/run-tests.sh full

test-stores:
	@e2e/setup.sh stores
	$(CARGO) test --features $(FEATURES) --lib -- --ignored store::conformance::minio store::conformance::azurite

test-thin:
	@e2e/run-thin-tests.sh sampled

test-thin-full:
	@e2e/run-thin-tests.sh full

e2e:
	@e2e/run-e2e.sh

e2e-velero:
	@e2e/run-velero.sh

e2e-suite:
	@e2e/run-suite.sh

image:
	@e2e/setup.sh image
	@deploy/image/build.sh $(TARGET)/windlass-image.tar

fuzz:
	@e2e/run-fuzz.sh

lint:
	@e2e/setup.sh test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features $(FEATURES) -- -D warnings

# All of the machine's two first processors are the tools' while they are measured; nothing else should run.
bench:
	@e2e/setup.sh bench
	$(CARGO) build --release -p windlass-bench
	@$(TARGET)/release/windlass-bench run full --report tests/bench/RESULTS.md

bench-quick:
	@e2e/setup.sh bench-quick
	$(CARGO) build --release -p windlass-bench
	@$(TARGET)/release/windlass-bench run quick

bench-memory:
	@e2e/setup.sh build
	$(CARGO) build --release -p windlass -p windlass-bench
	@$(TARGET)/release/windlass-bench synthetic table
	@$(TARGET)/release/windlass-bench node-memory

bench-thin:
	@e2e/bench-thin.sh

soak:
	@e2e/setup.sh test
	WINDLASS_RANDOM_OPERATIONS=100000 WINDLASS_RANDOM_SEED=$${WINDLASS_RANDOM_SEED:-$$(date +%s)} \
		$(CARGO) test --features $(FEATURES) --test root_random_operations -- --nocapture

soak-repository:
	@e2e/setup.sh test
	WINDLASS_LOCK_ROUNDS=$${WINDLASS_LOCK_ROUNDS:-100} $(CARGO) test --features $(FEATURES) --test root_locks -- --nocapture
	WINDLASS_SOAK_EXPORTS=400 WINDLASS_SOAK_SECONDS=600 \
		$(CARGO) test --features $(FEATURES) --test repository_soak -- --nocapture --test-threads=1

outages:
	@e2e/setup.sh test
	$(CARGO) test --features $(FEATURES) --test transfer_stores -- --ignored outages --nocapture

clean:
	$(CARGO) clean
