#!/usr/bin/env bash
# Fuzzes everything that reads bytes of a repository or of a peer, a while each, and ends with `N passed, N failed`.
#
#   e2e/run-fuzz.sh [TARGET...]     all targets unless some are named
#
# FUZZ_SECONDS (60) is the time a target; FUZZ_JOBS (the number of processors) how many run at once. Each begins with seeds that
# it makes itself and with what earlier runs found (target/fuzz/corpus). An input that breaks a promise, takes more than 10 seconds,
# allocates more than 512 MiB at once or 2 GiB in all is a failure, and is kept in target/fuzz/artifacts.
set -uo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
jobs=${FUZZ_JOBS:-$(nproc)}
. e2e/target.sh
out=$target/fuzz
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
PATH="$target/tools/cargo-fuzz/bin:$PATH"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1

give_up() { printf '%s\n0 passed, 1 failed\n' "$*"; exit 1; }

case $seconds$jobs in *[!0-9]*) give_up "FUZZ_SECONDS and FUZZ_JOBS are numbers" ;; esac
e2e/setup.sh fuzz || give_up "the machine could not be set up"
mapfile -t all < <(cargo +nightly fuzz list)
[ ${#all[@]} -gt 0 ] || give_up "no targets found"
for wanted in "$@"; do
    printf '%s\n' "${all[@]}" | grep -qxF -- "$wanted" || give_up "there is no target $wanted, only: ${all[*]}"
done
targets=("${@:-${all[@]}}")
cargo +nightly fuzz build --target-dir "$out/target" || give_up "the targets could not be built"
binaries=$out/target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release

# run_one TARGET: its output goes into a log; one line says what came of it, and a failure says how to see it again.
run_one() {
    local target=$1 log=$out/logs/$1.log status
    mkdir -p "$out/logs" "$out/corpus/$target" "$out/artifacts/$target"
    WINDLASS_FUZZ_SEEDS=$out/corpus/$target "$binaries/$target" "$out/corpus/$target" \
        -artifact_prefix="$out/artifacts/$target/" -max_total_time="$seconds" -timeout=10 -report_slow_units=5 \
        -malloc_limit_mb=512 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 >"$log" 2>&1
    status=$?
    local inputs coverage
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)
    if [ "$status" -eq 0 ] && [ "${inputs:-0}" -gt 0 ]; then
        printf 'fuzz %s ... ok (%s inputs, %s)\n' "$target" "$inputs" "$coverage"
    else
        printf 'fuzz %s ... FAILED (status %s); see %s; again with %s INPUT\n' "$target" "$status" "$log" "$binaries/$target"
        grep -E -A 3 'panicked at|ERROR: |SUMMARY: |Test unit written to' "$log" | head -n 30
        return 1
    fi
}

failed=0
running=0
for target in "${targets[@]}"; do
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=$((failed + 1))
        running=$((running - 1))
    fi
    run_one "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
done
printf '%s passed, %s failed\n' "$((${#targets[@]} - failed))" "$failed"
[ "$failed" -eq 0 ]
