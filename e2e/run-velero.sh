#!/usr/bin/env bash
# Velero's own data mover over volumes of the driver, in a cluster of its own: Velero with node-agent and MinIO are built and installed, a namespace is
# backed up three times, deleted and restored. Ends with one line: `N passed, N failed`. Run as root; does its own set-up on a fresh Debian.
#
# Output, logs and what stays: e2e/cluster-run.sh. Beside the cluster's tools, Velero and MinIO take some six minutes of one processor to build.
set -uo pipefail
cd "$(dirname "$0")/.."
run_name=e2e-velero
. e2e/cluster-run.sh

get_ready velero minio
bring_up
install_driver
step "velero install" e2e/cluster/with-cluster e2e/velero/install.sh
part "backups and restore" e2e/cluster/with-cluster e2e/velero/backup-and-restore.sh
finish
