#!/usr/bin/env bash
# The driver in a real cluster: builds cluster, image and chart, installs the driver as anyone would, runs the scenarios, takes all of it away
# again, and ends with one line: `N passed, N failed`. Run as root; does its own set-up on a fresh Debian.
#
#   e2e/run-e2e.sh                 everything
#   e2e/run-e2e.sh SCENARIO...     the scenarios of these names only, and no checks of cluster and chart
#
# Output, logs and what stays: e2e/cluster-run.sh.
set -uo pipefail
cd "$(dirname "$0")/.."
run_name=e2e
. e2e/cluster-run.sh

get_ready minio prometheus
[ $# -gt 0 ] || part "chart" env HELM="$(tools_of kubernetes)/helm" e2e/test-chart.sh
[ $# -gt 0 ] || part "alerts" env PROMTOOL="$(tools_of prometheus)/promtool" e2e/test-monitoring.sh
bring_up
[ $# -gt 0 ] || part "cluster" e2e/cluster/check.sh
[ $# -gt 0 ] || part "requirements" e2e/cluster/with-cluster e2e/check-requirements.sh
step "store" e2e/store.sh
install_driver
part "scenarios" e2e/cluster/with-cluster e2e/scenarios.sh "$@"
finish
