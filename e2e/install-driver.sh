#!/usr/bin/env bash
# Puts the driver into the cluster of e2e/cluster, as pods, by nothing but what the chart renders; waits until it serves, and says what keeps it
# from that. Its image is in the cluster already.
#
#   e2e/install-driver.sh [HELM ARGUMENT...]
#
# WINDLASS_POOLS_SERVED   how many of the pools in the values are to be served (2, which is all of e2e/values.yaml)
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/cluster/env.sh
limit=${WINDLASS_PATIENCE:-180}
served=${WINDLASS_POOLS_SERVED:-2}

# Where the Secrets of repositories are: the chart has a Role there.
cluster_kubectl create namespace backups --dry-run=client -o yaml | cluster_kubectl apply -f - >/dev/null
"$(tool helm)" template windlass deploy/chart --namespace windlass-system --kube-version "$(cluster_kubectl version -o json | jq -r .serverVersion.gitVersion)" \
    --api-versions snapshot.storage.k8s.io/v1/VolumeSnapshot --api-versions cbt.storage.k8s.io/v1beta1/SnapshotMetadataService \
    --values e2e/values.yaml --set createNamespace=true "$@" >"$run/driver.yaml"
# As helm itself does: what a later chart leaves out then goes, where another manager's fields would stay.
cluster_kubectl apply --server-side --force-conflicts --field-manager=helm -f "$run/driver.yaml" >/dev/null
if ! cluster_kubectl -n windlass-system rollout status daemonset/windlass-node --timeout="${limit}s" >/dev/null; then
    cluster_kubectl -n windlass-system describe pod -l app.kubernetes.io/name=windlass | tail -n 40
    for container in pools node agent csi-provisioner; do
        printf -- '-- log of %s\n' "$container"
        cluster_kubectl -n windlass-system logs daemonset/windlass-node -c "$container" --tail=20 || true
    done
    exit 1
fi >&2
# Registered with the kubelet, with the topology of these pools.
for _ in $(seq 100); do
    ! cluster_kubectl get csinode node1 -o json | jq -e --argjson keys $((served + 1)) '.spec.drivers // [] | any(.name == "csi.windlass.dev" and (.topologyKeys | length == $keys))' >/dev/null || exit 0
    sleep 0.2
done
echo "the kubelet of node 1 does not know the driver with $served pools:" >&2
cluster_kubectl get csinode node1 -o yaml >&2
exit 1
