#!/usr/bin/env bash
# Lints, builds every test once, runs all of them, and ends with one line: `N passed, N failed`.
#
# The tests that need no root run as an unprivileged user (by setpriv when this is root): that is how we know that they
# need none. The files tests/root_*.rs then run as root. Meanwhile e2e/run-thin-tests.sh runs those that need device-mapper in
# virtual machines, one at a time; what it prints follows when this machine's are done. Everything printed is also in target/test.log.
#
#   e2e/run-tests.sh [all|full|unprivileged|root] [FILTER]
#
# `all` is what `make test` runs: of the tests that take long it runs a share (e2e/testing.sh). `full` runs the whole of them, and those
# against MinIO and Azurite. The
# other two leave out the lints and the virtual machines, and run whole tests. FILTER is a part of the names of the tests wanted.
set -uo pipefail
cd "$(dirname "$0")/.."

part=${1:-all}
filter=${2:-}
. e2e/target.sh
log=$target/test.log
thin_log=$target/thin-test.log
. e2e/testing.sh
export CARGO_MANIFEST_DIR=$PWD
# Longer than the virtual machines' part takes beside everything else. What hangs has to be told before somebody ends the run.
thin_limit=2700
mkdir -p "$target"
: >"$log"
passed_steps=0

case $part in
    all | full | unprivileged | root) ;;
    *) printf 'usage: %s [all|full|unprivileged|root] [FILTER]\n' "$0" >&2; exit 2 ;;
esac
is_whole_run() { [ "$part" = all ] || [ "$part" = full ]; }

end() {
    e2e/summary.sh "$log" "$passed_steps"
    exit
}

# step NAME COMMAND...: a check that is one command.
step() {
    local name=$1 output=$scratch/step
    shift
    say "== $name"
    if "$@" 2>&1 | tee -a "$log" | tee "$output"; then
        passed_steps=$((passed_steps + 1))
    else
        broke "$name failed" "$(grep -A 5 -E '^error' "$output" | head -n 15 || tail -n 15 "$output")"
    fi
}

set_up() { e2e/setup.sh "$1" 2>&1 | tee -a "$log"; }

lint() {
    step "cargo fmt --check" cargo fmt --all --check
    step "cargo clippy" cargo clippy -q --workspace --all-targets --features "$features" -- -D warnings
}

# run_one SOURCE COMMAND...: a test binary that ends badly without a summary of its own (a crash) is counted by its absence.
run_one() {
    local source=$1 before after status begin=$SECONDS
    shift
    say "== $source"
    before=$(grep -c '^test result: ' "$log")
    "$@" </dev/null 2>&1 | tee -a "$log"
    status=${PIPESTATUS[0]}
    after=$(grep -c '^test result: ' "$log")
    if [ "$status" -ne 0 ] && [ "$before" = "$after" ]; then
        broke "$source ended with status $status and without a result" "$(section "$source")"
    fi
    say "== $source took $((SECONDS - begin)) s"
}

run_unprivileged() {
    local unprivileged=() source executable
    if [ "$(id -u)" = 0 ]; then
        chown 65534:65534 "$scratch/home"
        unprivileged=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs)
        if ! "${unprivileged[@]}" bash -c '[ -r Cargo.toml ] && [ -r "$1" ]' - "${executables##* }" 2>/dev/null; then
            # The checkout, or what is built, lies in a directory of root's alone. Reading past that is the one thing granted.
            say "this checkout, or where it is built, is readable by root only: the unprivileged tests run with CAP_DAC_READ_SEARCH"
            unprivileged=(setpriv --reuid=65534 --regid=65534 --clear-groups
                --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search
                --bounding-set=-all,+dac_read_search)
        fi
        unprivileged+=(env HOME="$scratch/home" TMPDIR="$scratch/home" USER=nobody)
    fi
    while read -r source executable; do
        case $source in
            tests/root_* | tests/thin_*) ;;
            *) run_one "$source" "${unprivileged[@]}" "$executable" $filter ;;
        esac
    done <<<"$executables"
    run_one "examples in the documentation" cargo test -q --workspace --features "$features" --doc -- $filter
}

run_root() {
    local source executable
    while read -r source executable; do
        case $source in
            # These look at what the virtual machines leave: e2e/run-thin-tests.sh.
            tests/root_power_*) ;;
            tests/root_*) run_one "$source" "$executable" --show-output $filter ;;
        esac
    done <<<"$executables"
}

# Servers of others, of which one takes minutes to build: only the whole run has them.
run_stores() {
    local source executable
    while read -r source executable; do
        case $source in
            src/lib.rs) run_one "stores of others" "$executable" --ignored store::conformance::minio store::conformance::azurite ;;
        esac
    done <<<"$executables"
}

# The virtual machines are emulated where there is no KVM, and take a processor. They get less of this machine than its own
# tests, which have deadlines.
thin=
start_thin() {
    : >"$thin_log"
    printf '%s\n' "$executables" >"$scratch/executables"
    local bound=()
    [ "$part" = full ] || bound=(timeout --kill-after 30 "$thin_limit")
    # A group of its own, to be ended as one.
    set -m
    nice -n 5 "${bound[@]}" e2e/run-thin-tests.sh --beside "$scratch/executables" '' "$filter" </dev/null >"$scratch/thin" 2>&1 &
    thin=$!
    set +m
}

end_thin() {
    say "== what ran in virtual machines meanwhile"
    # In the background, so that a signal ends the waiting.
    { tail -n +1 -f --pid="$thin" "$scratch/thin" | tee -a "$log"; } &
    local following=$! status
    wait "$thin"
    status=$?
    wait "$following"
    thin=
    # It counts by itself what did not end well, unless it came to its own end early.
    grep -q '^== the virtual machines are done$' "$log" ||
        broke "the virtual machines' tests ended with status $status" "$(tail -n 15 "$scratch/thin")"
}

scratch=$(mktemp -d /tmp/windlass-unprivileged.XXXXXX)
chmod 711 "$scratch"
mkdir "$scratch/home"
cleanup() {
    trap '' INT TERM
    [ -z "$thin" ] || kill -- "-$thin" 2>/dev/null
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ "$part" != unprivileged ] && [ "$(id -u)" != 0 ]; then
    broke "the root tests need root (mounts, loop devices); e2e/run-tests.sh unprivileged runs the others"
    end
fi
if is_whole_run; then
    choose_share "$([ "$part" = full ] && echo full || echo sampled)"
    stage "setup" set_up thin || { broke "the machine could not be set up" "$(tail -n 15 "$log")"; end; }
    [ "$part" != full ] || stage "stores of others" set_up stores || { broke "MinIO and Azurite could not be had" "$(tail -n 15 "$log")"; end; }
else
    stage "setup" set_up test || { broke "the machine could not be set up" "$(tail -n 15 "$log")"; end; }
fi
stage "build" build_tests || end
if is_whole_run; then
    start_thin
    stage "lints" lint
fi
[ "$part" = root ] || stage "unprivileged tests" run_unprivileged
[ "$part" = unprivileged ] || stage "root tests" run_root
[ "$part" != full ] || stage "tests of the stores of others" run_stores
[ -z "$thin" ] || stage "virtual machines and replays beyond the others' end" end_thin
end
