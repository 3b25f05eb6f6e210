#!/usr/bin/env bash
# Kubernetes' own tests of storage drivers, External.Storage of its end-to-end suite, against the driver in a real cluster: brings that up, installs
# the driver as anyone would, runs the tests, takes all of it away again, and ends with one line: `N passed, N failed`. Run as root.
#
#   e2e/run-suite.sh            all of them
#   e2e/run-suite.sh REGEX      those whose names match, and no least number of them
#
# The tests are built from e2e/tools/suite. Output, logs and what stays: e2e/cluster-run.sh; each test's own report: target/suite.json.
set -uo pipefail
cd "$(dirname "$0")/.."
run_name=suite
. e2e/cluster-run.sh

get_ready suite
bring_up
install_driver
part "suite" e2e/cluster/with-cluster e2e/suite/run.sh "$@"
finish
