#!/usr/bin/env bash
# The alerts, without a cluster: that Prometheus takes them, and that each fires and is silent when it must be.
#
#   e2e/test-monitoring.sh       ends with `N passed, N failed`
#
# Needs promtool (PROMTOOL names it; e2e/cluster/build.sh prometheus builds it). That rules and dashboard speak of families that exist is
# tests/metrics.rs's to say.
set -uo pipefail
cd "$(dirname "$0")/.."

promtool=${PROMTOOL:-promtool}
command -v "$promtool" >/dev/null || { echo "promtool is missing; name it by PROMTOOL=PATH" >&2; exit 2; }
rules=deploy/chart/files/alerts.yaml
tests=deploy/monitoring/alerts.test.yaml
. e2e/checks.sh

check "Prometheus takes the alerts" "$promtool" check rules --lint=all --lint-fatal $rules
for alert in $(sed -n 's/^ *- alert: //p' $rules); do
    for case in fires 'is silent'; do
        # Without one of its name nothing would be tested.
        check "there is a case in which $alert $case" grep -qx "  - name: $alert $case" $tests
        check "$alert $case" "$promtool" test rules --run="^$alert $case\$" $tests
    done
done

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
