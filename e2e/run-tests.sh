#!/usr/bin/env bash
# Lints, builds every test once, runs all of them, and ends with one line: `N passed, N failed`.
#
# The tests that need no root run as an unprivileged user (by setpriv when this is root): that is how we know that they
# need none. The files tests/root_*.rs then run as root. Everything printed is also in target/test.log.
#
#   e2e/run-tests.sh [all|unprivileged|root] [FILTER]
#
# `all` is what `make test` runs; the other two leave the lints out. FILTER is a part of the names of the tests wanted.
# e2e/run-thin-tests.sh runs those that need device-mapper: tests/thin_*.rs and what follows them.
set -uo pipefail
cd "$(dirname "$0")/.."

part=${1:-all}
filter=${2:-}
features=root-tests,failpoints
log=target/test.log
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TERM_COLOR=never CARGO_MANIFEST_DIR=$PWD
export RUST_BACKTRACE=${RUST_BACKTRACE:-1}
mkdir -p target
: >"$log"
passed_steps=0
broken=0

say() { printf '%s\n' "$*" | tee -a "$log"; }

# step NAME COMMAND...: a check that is one command.
step() {
    local name=$1
    shift
    say "== $name"
    if "$@" 2>&1 | tee -a "$log"; then
        passed_steps=$((passed_steps + 1))
    else
        say "$name failed"
        broken=$((broken + 1))
    fi
}

give_up() {
    say "$*"
    say "$passed_steps passed, $((broken + 1)) failed"
    exit 1
}

if [ "$part" != unprivileged ] && [ "$(id -u)" != 0 ]; then
    give_up "the root tests need root (mounts, loop devices); e2e/run-tests.sh unprivileged runs the others"
fi

e2e/setup.sh test 2>&1 | tee -a "$log" || give_up "the machine could not be set up"

if [ "$part" = all ]; then
    step "cargo fmt --check" cargo fmt --all --check
    step "cargo clippy" cargo clippy -q --workspace --all-targets --features "$features,thin-tests" -- -D warnings
fi

# One build serves both parts: failure injection does nothing unless the environment asks for it.
say "== build"
build=$(cargo test --workspace --features "$features" --no-run 2>&1) || give_up "$build"

# Lines like `Executable tests/root_demo.rs (target/debug/deps/root_demo-0123)`, in the order of the build.
executables() {
    printf '%s\n' "$build" | sed -n 's/^ *Executable \(unittests \)\?\([^ ]*\) (\(.*\))$/\2 \3/p'
}

scratch=
cleanup() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap cleanup EXIT

# run_one SOURCE COMMAND...: a test binary that ends badly without a summary of its own (a crash) is counted by its absence.
run_one() {
    local source=$1 before after status
    shift
    say "== $source"
    before=$(grep -c '^test result: ' "$log")
    "$@" </dev/null 2>&1 | tee -a "$log"
    status=${PIPESTATUS[0]}
    after=$(grep -c '^test result: ' "$log")
    if [ "$status" -ne 0 ] && [ "$before" = "$after" ]; then
        say "$source ended with status $status and without a result"
        broken=$((broken + 1))
    fi
}

if [ "$part" != root ]; then
    unprivileged=()
    if [ "$(id -u)" = 0 ]; then
        scratch=$(mktemp -d /tmp/windlass-unprivileged.XXXXXX)
        chown 65534:65534 "$scratch"
        unprivileged=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs)
        if ! "${unprivileged[@]}" test -r "$PWD/Cargo.toml" 2>/dev/null; then
            # The checkout lies in a directory of root's alone. Reading past that is the one thing granted.
            say "this checkout is readable by root only: the unprivileged tests run with CAP_DAC_READ_SEARCH"
            unprivileged=(setpriv --reuid=65534 --regid=65534 --clear-groups
                --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search
                --bounding-set=-all,+dac_read_search)
        fi
        unprivileged+=(env HOME="$scratch" TMPDIR="$scratch" USER=nobody)
    fi
    while read -r source executable; do
        case $source in
            tests/root_*) ;;
            *) run_one "$source" "${unprivileged[@]}" "$executable" $filter ;;
        esac
    done < <(executables)
    run_one "examples in the documentation" cargo test -q --workspace --features "$features" --doc -- $filter
fi

if [ "$part" != unprivileged ]; then
    while read -r source executable; do
        case $source in
            tests/root_*) run_one "$source" "$executable" --show-output $filter ;;
        esac
    done < <(executables)
fi

e2e/summary.sh "$log" "$passed_steps" "$broken"
