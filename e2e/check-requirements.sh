#!/usr/bin/env bash
# What the driver needs of a cluster, taken away from a real one that has no driver yet: helm installs nothing, leaves nothing, and says what is
# missing. Brings it back then. Ends with `N passed, N failed`. To be called by e2e/cluster/with-cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/cluster/env.sh
. e2e/checks.sh

k() { cluster_kubectl "$@"; }
install() { helm install windlass deploy/chart --namespace windlass-system --create-namespace --values e2e/values.yaml "$@"; }
refused() {
    local said
    ! said=$(install 2>&1) || { echo "it was installed"; return 1; }
    grep -qF -- "$1" <<<"$said" || { echo "helm said: $said"; return 1; }
}
# By name: of the whole cluster, whatever namespace it is in.
nothing_installed() {
    local left
    left=$(k get csidriver,storageclass,clusterrole,clusterrolebinding,daemonset,configmap,serviceaccount,secret -A -o name | grep -e windlass -e sh.helm.release || true)
    [ -z "$left" ] || { printf 'left: %s\n' "$left"; return 1; }
}

check "with all that it needs it would be installed" install --dry-run=server
k -n kube-system delete deployment snapshot-controller --wait >/dev/null
check "without a snapshot controller helm says so" refused "no snapshot controller is to be seen in this cluster"
check "nothing of that attempt is left" nothing_installed
k delete crd volumesnapshots.snapshot.storage.k8s.io volumesnapshotcontents.snapshot.storage.k8s.io volumesnapshotclasses.snapshot.storage.k8s.io --wait >/dev/null
check "without the snapshot API helm says so" refused "this cluster has no snapshot API (snapshot.storage.k8s.io/v1)"
check "nothing of that attempt is left either" nothing_installed
k delete namespace windlass-system --ignore-not-found --wait >/dev/null
check "the cluster's own services are back" e2e/cluster/up.sh
check "then it would be installed again" install --dry-run=server
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
