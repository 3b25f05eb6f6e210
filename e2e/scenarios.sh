#!/usr/bin/env bash
# Scenarios on the cluster that e2e/cluster/up.sh brought up, with the driver in it as pods of the chart.
#
#   e2e/scenarios.sh                runs all; ends with `N passed, N failed`
#   e2e/scenarios.sh NAME...        those named
#
# Each is a file: those in scenarios/together/ run several at a time, each in a namespace of its own; those in scenarios/alone/ kill or replace what
# all others use, and run one after the other in the order of their names, after them. The first line of each says, as a sentence, what is true
# if it passes. A scenario that fails prints the end of its log; what its namespace looked like is in the log too. All logs are in the cluster's
# directory, under scenarios/.
set -uo pipefail
cd "$(dirname "$0")/.."
. e2e/cluster/env.sh

# How many at once: they wait most of the time, and the machine has few processors.
at_once=${WINDLASS_SCENARIOS_AT_ONCE:-5}
# Seconds for one scenario.
limit=${WINDLASS_SCENARIO_LIMIT:-600}
busybox=${WINDLASS_BUSYBOX:-docker.io/library/busybox:1.37}
export busybox
logs=$run/scenarios
mkdir -p "$logs"
begin=$SECONDS

sentence() { sed -n '1s/^# //p' "$1"; }

# look NAMESPACE: what a failed scenario left to be seen.
look() {
    cluster_kubectl -n "$1" get pod,pvc,volumesnapshot -o wide
    cluster_kubectl -n "$1" get events --sort-by=.lastTimestamp -o custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message | tail -n 25
    local container
    for container in node agent csi-snapshotter; do cluster_kubectl -n windlass-system logs daemonset/windlass-node -c "$container" --tail=15; done
}

run_one() {
    local file=$1 name namespace log from=$SECONDS
    name=$(basename "$file" .sh)
    namespace=s-$name
    log=$logs/$name.log
    rm -f "$logs/$name".{passed,failed}
    cluster_kubectl create namespace "$namespace" >"$log" 2>&1
    if namespace=$namespace timeout --kill-after=10 "$limit" bash -Eeuo pipefail -c '. e2e/cluster/env.sh; . e2e/scenarios/library.sh; trap "printf \"line %s of %s: %s\\n\" \"\$LINENO\" \"\${BASH_SOURCE[0]##*/}\" \"\$BASH_COMMAND\" >&2" ERR; . "$1"' _ "$file" >>"$log" 2>&1 </dev/null; then
        printf 'passed (%d s): %s\n' "$((SECONDS - from))" "$(sentence "$file")" | tee "$logs/$name.passed"
        grep '^NOT CHECKED: ' "$log" || true
    else
        {
            printf 'FAILED (%d s): %s [%s]\n' "$((SECONDS - from))" "$(sentence "$file")" "$log"
            tail -n 15 "$log" | cut -c 1-400 | sed 's/^/    /'
        } | tee "$logs/$name.failed"
        look "$namespace" >>"$log" 2>&1
    fi
}

wanted=("$@")
chosen() {
    local name
    [ ${#wanted[@]} -gt 0 ] || return 0
    for name in "${wanted[@]}"; do [ "$name" != "$(basename "$1" .sh)" ] || return 0; done
    return 1
}
files=()
for file in e2e/scenarios/together/*.sh; do chosen "$file" && files+=("$file"); done
running=0
for file in "${files[@]}"; do
    if [ "$running" -ge "$at_once" ]; then
        wait -n
        running=$((running - 1))
    fi
    run_one "$file" &
    running=$((running + 1))
done
wait
for file in e2e/scenarios/alone/*.sh; do
    ! chosen "$file" || { files+=("$file"); run_one "$file"; }
done

passed=0
for file in "${files[@]}"; do [ ! -e "$logs/$(basename "$file" .sh).passed" ] || passed=$((passed + 1)); done
# A scenario that left neither mark did not pass.
failed=$((${#files[@]} - passed))
printf 'scenarios took %d s\n%d passed, %d failed\n' "$((SECONDS - begin))" "$passed" "$failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
