#!/usr/bin/env bash
# Installs Velero with its node-agent into the cluster of e2e/cluster, as docs/velero.md says, and an object store for it: MinIO, on the node
# without the driver, as Velero's server is. Images are made of programs built by `e2e/cluster/build.sh velero minio`; no registry is asked.
#
#   e2e/cluster/with-cluster e2e/velero/install.sh
#
# What is measured decides where pods run and what they ask for: the node-agent and the server have requests, so that of all pods of a node only
# the data mover's are of the class `besteffort`, whose control group outlives them.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
. e2e/cluster/env.sh
limit=${WINDLASS_PATIENCE:-180}
velero_tools=$(tools_of velero)
minio_tools=$(tools_of minio)
making=$run/velero
mkdir -p "$making"

# version MODULE PATH: of a Go module among what MODULE of e2e/tools is built from.
version() { awk -v path="$2" '$1 == path { print $2; exit }' "$tools_source/$1/go.mod"; }
velero=docker.io/velero/velero:$(version velero github.com/vmware-tanzu/velero)
plugin=docker.io/velero/velero-plugin-for-aws:$(version velero github.com/vmware-tanzu/velero-plugin-for-aws)
minio=docker.io/minio/minio:$(version minio github.com/minio/minio)

# image NAME FILE... OPTION...: with a shell, which the plugin's copies itself by.
image() {
    local name=$1 program arguments=()
    shift
    for program in $(/bin/busybox --list); do [ "$program" = busybox ] || arguments+=(--link "busybox:/bin/$program"); done
    python3 e2e/cluster/oci-image.py "$name" "$making/image.tar" /bin/busybox:/bin/busybox "$@" "${arguments[@]}" >/dev/null
    e2e/cluster/images.sh add "$making/image.tar"
    rm "$making/image.tar"
}
image "$velero" "$velero_tools/velero:/velero" "$velero_tools/velero-helper:/usr/bin/velero-helper" \
    --directory tmp:1777 --directory scratch:1777 --directory udmrepo:1777 --entrypoint '["/velero"]'
image "$plugin" "$velero_tools/velero-plugin-for-aws:/plugins/velero-plugin-for-aws" \
    --directory target --entrypoint '["/bin/sh", "-c", "cp /plugins/* /target/."]'
image "$minio" "$minio_tools/minio:/minio" --directory data --entrypoint '["/minio"]'

user=velero
password=$(openssl rand -hex 16)
cluster_kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: Namespace
metadata: {name: store}
---
apiVersion: v1
kind: Pod
metadata: {name: minio, namespace: store, labels: {app: minio}}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  terminationGracePeriodSeconds: 1
  initContainers:
    # A directory of the store's is a bucket.
    - {name: bucket, image: "$minio", imagePullPolicy: Never, command: [mkdir, -p, /data/backups], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
    - name: minio
      image: $minio
      imagePullPolicy: Never
      args: [server, /data, --address, ":9000"]
      env: [{name: MINIO_ROOT_USER, value: $user}, {name: MINIO_ROOT_PASSWORD, value: "$password"}]
      readinessProbe: {httpGet: {path: /minio/health/ready, port: 9000}, periodSeconds: 1}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: minio, namespace: store}
spec: {selector: {app: minio}, ports: [{port: 9000}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: velero}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: node-agent, namespace: velero}
data:
  node-agent-config.json: |
    {"backupPVC": {"windlass": {"storageClass": "windlass-immediate", "readOnly": true},
                   "windlass-raw": {"storageClass": "windlass-immediate", "readOnly": true}},
     "restorePVC": {"ignoreDelayBinding": true}}
END
cluster_kubectl -n store wait --for=condition=Ready pod/minio --timeout="${limit}s" >/dev/null

printf '[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n' "$user" "$password" >"$making/credentials"
"$velero_tools/velero" install --image "$velero" --plugins "$plugin" --use-node-agent --features EnableCSI --node-agent-configmap node-agent \
    --provider aws --bucket backups --secret-file "$making/credentials" --use-volume-snapshots=false \
    --backup-location-config region=us-east-1,s3ForcePathStyle=true,s3Url=http://minio.store.svc.cluster.local:9000 \
    --velero-pod-cpu-request 20m --velero-pod-mem-request 64Mi --velero-pod-cpu-limit 0 --velero-pod-mem-limit 0 \
    --node-agent-pod-cpu-request 20m --node-agent-pod-mem-request 64Mi >"$making/install.log"
rm "$making/credentials"
cluster_kubectl -n velero patch deployment velero -p '{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node2"}}}}}' >/dev/null
if ! {
    cluster_kubectl -n velero rollout status deployment/velero --timeout="${limit}s" &&
        cluster_kubectl -n velero rollout status daemonset/node-agent --timeout="${limit}s" &&
        cluster_kubectl -n velero wait --for=jsonpath='{.status.phase}'=Available backupstoragelocation/default --timeout="${limit}s"
} >/dev/null; then
    cluster_kubectl -n velero get pod,backupstoragelocation -o wide
    cluster_kubectl -n velero describe pod | tail -n 40
    cluster_kubectl -n velero logs deployment/velero --tail=20
    exit 1
fi >&2
printf 'velero: %s\n' "$("$velero_tools/velero" version | tr -s '\n\t ' ' ')"
