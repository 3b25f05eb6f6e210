# To be sourced, in the project's directory, by what brings up a cluster with the driver in it, does something there, takes all of it away again
# and ends with one line: `N passed, N failed`.
#
# `run_name` says what it is called: everything printed is also in target/NAME.log, and what the cluster logged is in target/NAME-logs afterwards.
# With WINDLASS_E2E_KEEP=1 the cluster stays up at the end, for a look with e2e/cluster/k and e2e/cluster/inns; e2e/cluster/down.sh --wipe ends it.
#
# The tools come from e2e/cluster/build.sh, which keeps them outside of the checkout; the first build takes some 20 minutes of one processor.
# The binary is that of the tests (make test), so that nothing is built twice.

. e2e/target.sh
log=$target/$run_name.log
mkdir -p "$target"
: >"$log"
. e2e/testing.sh
. e2e/cluster/env.sh

passed_steps=0
# part NAME COMMAND...: a part of the run that prints how many of its checks passed.
part() {
    local name=$1 before status
    shift
    before=$(grep -cE '^[0-9]+ passed, [0-9]+ failed$' "$log")
    say "== $name"
    stage "$name" in_log "$@"
    status=$?
    [ "$(grep -cE '^[0-9]+ passed, [0-9]+ failed$' "$log")" -gt "$before" ] || broke "$name ended with status $status and without a result" "$(tail -n 15 "$log")"
}
# step NAME COMMAND...: one that either works or not. Without it nothing that follows makes sense.
step() {
    local name=$1
    shift
    say "== $name"
    if stage "$name" in_log "$@"; then
        passed_steps=$((passed_steps + 1))
    else
        broke "$name failed" "$(tail -n 15 "$log")"
        finish
    fi
}
in_log() {
    "$@" </dev/null 2>&1 | tee -a "$log"
    return "${PIPESTATUS[0]}"
}

up=no
# The cluster's end is a check too: down.sh says what it could not take away.
take_down() {
    [ "$up" = yes ] || return 0
    up=no
    rm -rf "$target/$run_name-logs"
    mkdir -p "$target/$run_name-logs"
    cp -r "$run"/log/. "$run"/scenarios "$target/$run_name-logs/" 2>/dev/null
    if [ -n "${WINDLASS_E2E_KEEP-}" ]; then
        say "the cluster stays up: WINDLASS_CLUSTER_DIR=$run e2e/cluster/k get pods -A"
        return 0
    fi
    part "cluster down" e2e/cluster/check-down.sh
}

finish() {
    take_down
    local passed failed
    read -r passed failed < <(awk '
        /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
        /^!! [^ ]/ { failed++ }
        END { print passed + 0, failed + 0 }' "$log")
    passed=$((passed + passed_steps))
    {
        printf '\nWhat took how long, in seconds:\n'
        sed -n 's/^== stage \(.*\) took \([0-9]*\) s$/\2 \1/p' "$log" | awk '{ t = $1; sub(/^[0-9]* /, ""); printf "%6d  %s\n", t, $0 }'
        if [ "$failed" -gt 0 ]; then
            printf '\nWhat failed (all output: %s, the cluster'\''s logs: %s):\n' "$log" "$target/$run_name-logs"
            grep -A 15 -E '^(FAILED|!! )' "$log" | grep -E '^(FAILED|!! |!!  |    )' | cut -c 1-300 | tail -n 60
        fi
        printf '%s passed, %s failed\n' "$passed" "$failed"
    } >"$log.end"
    cat "$log.end"
    cat "$log.end" >>"$log"
    rm -f "$log.end"
    [ "$failed" = 0 ] && [ "$passed" -gt "$passed_steps" ]
    exit
}
# Whatever ends this, nothing stays up.
trap '[ "$up" = no ] || [ -n "${WINDLASS_E2E_KEEP-}" ] || e2e/cluster/down.sh --wipe' EXIT
trap 'exit 130' INT TERM

# get_ready [MODULE...]: set-up and tools; with modules of e2e/tools, those beside the cluster's own.
get_ready() {
    [ "$(id -u)" = 0 ] || { broke "a cluster needs root"; finish; }
    step "setup" e2e/setup.sh e2e
    step "tools" e2e/cluster/build.sh $tool_modules "$@"
}

# bring_up: a new cluster, with the driver's image in it.
bring_up() {
    # As the tests are built, with what they need beside it: `cargo build` would choose other features of crates and build them all anew.
    step "driver" cargo test --quiet --workspace --features "$features" --no-run --test cli
    step "image" timeout 20m deploy/image/build.sh --inject "$target/debug/windlass" "$target/windlass-e2e.tar"
    # Of an earlier run, if that was killed.
    step "clean start" e2e/cluster/down.sh --wipe
    up=yes
    step "cluster up" e2e/cluster/up.sh
    step "image import" e2e/cluster/images.sh add "$target/windlass-e2e.tar"
}

install_driver() { step "driver install" e2e/cluster/with-cluster e2e/install-driver.sh; }
