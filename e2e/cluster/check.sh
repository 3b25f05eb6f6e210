#!/usr/bin/env bash
# Checks the cluster itself, without any driver: what scenarios take for granted. Ends with `N passed, N failed`.
#
# Both nodes run pods; pods find services by name and reach them on the other node; the API server is one of them; a privileged pod has loop
# devices, and what it mounts is seen by its node; snapshots and their metadata are kinds of objects.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"

namespace=cluster-check
k() { cluster_kubectl -n "$namespace" "$@"; }
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../checks.sh"
clean_up() { cluster_kubectl delete namespace "$namespace" --ignore-not-found --timeout=60s; }

# One pod on each node serves its node's name, and is the mount check too: it makes a file system in a file, on a loop device, at a place that
# the node sees.
objects() {
    cat <<'END'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 0
      initContainers:
        - name: mount
          image: busybox:1.37
          imagePullPolicy: Never
          securityContext: {privileged: true}
          command: [sh, -ec]
          args:
            - |
              dd if=/dev/zero of=/var/lib/windlass/check.img bs=1M count=16
              mke2fs -F /var/lib/windlass/check.img
              loop=$(losetup -f)
              losetup "$loop" /var/lib/windlass/check.img
              mkdir -p /var/lib/kubelet/cluster-check
              mount -t ext2 "$loop" /var/lib/kubelet/cluster-check
              echo "$NODE" >/var/lib/kubelet/cluster-check/node
          env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
          volumeMounts:
            - {name: dev, mountPath: /dev}
            - {name: kubelet, mountPath: /var/lib/kubelet, mountPropagation: Bidirectional}
            - {name: pools, mountPath: /var/lib/windlass}
      containers:
        - name: server
          image: busybox:1.37
          imagePullPolicy: Never
          command: [httpd, -f, -p, "8080", -h, /served]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          volumeMounts: [{name: served, mountPath: /served, mountPropagation: HostToContainer}]
      volumes:
        - {name: dev, hostPath: {path: /dev}}
        - {name: kubelet, hostPath: {path: /var/lib/kubelet}}
        - {name: pools, hostPath: {path: /var/lib/windlass}}
        - {name: served, hostPath: {path: /var/lib/kubelet/cluster-check, type: DirectoryOrCreate}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
END
    local node
    for node in $nodes; do
        cat <<END
---
apiVersion: v1
kind: Pod
metadata: {name: client$node}
spec:
  terminationGracePeriodSeconds: 0
  nodeName: node$node
  containers: [{name: client, image: "busybox:1.37", imagePullPolicy: Never, command: [sleep, "3600"]}]
END
    done
}

nodes_ready() { k wait --for=condition=Ready --timeout=60s $(for node in $nodes; do printf 'node/node%s ' "$node"; done); }
pods_run() {
    k apply -f <(objects) && k rollout status daemonset/server --timeout=120s && k wait --for=condition=Ready pod --all --timeout=60s
}
# Each client asks until both nodes have answered: which one does is chosen anew each time, and a node learns of a service only after the
# API server does. It is by name, so that names are checked too.
reaches_service() {
    local node=$1 other answers=''
    for _ in $(seq 60); do
        # Not wget, which ends with a segmentation fault where it is linked statically and asks for names.
        answers+=" $(k exec "client$node" -- sh -c "printf 'GET /node HTTP/1.0\r\n\r\n' | nc -w 5 server.$namespace.svc.cluster.local 80" | tail -n 1)" || true
        for other in $nodes; do [[ "$answers " == *" node$other "* ]] || continue 2; done
        return 0
    done
    printf 'only these answered:%s\n' "$answers"
    return 1
}
reaches_server() {
    local answer
    answer=$(k exec "client$1" -- sh -c 'nc -w 5 kubernetes.default.svc.cluster.local 443 </dev/null && echo open')
    [ "$answer" = open ]
}
mount_reached_node() {
    local node=$1
    inside "$node" findmnt --noheadings --output SOURCE /var/lib/kubelet/cluster-check | grep '^/dev/loop' &&
        [ "$(inside "$node" cat /var/lib/kubelet/cluster-check/node)" = "node$node" ]
}
mount_is_private() { ! findmnt /var/lib/kubelet/cluster-check; }
undo_mount() {
    local loop
    loop=$(inside "$1" findmnt --noheadings --output SOURCE /var/lib/kubelet/cluster-check) || return 0
    inside "$1" umount /var/lib/kubelet/cluster-check
    losetup --detach "$loop"
    inside "$1" rm -r /var/lib/windlass/check.img /var/lib/kubelet/cluster-check
}
is_served() { cluster_kubectl get "$1" -A; }

clean_up >/dev/null
cluster_kubectl create namespace "$namespace" >/dev/null
trap 'clean_up >/dev/null 2>&1 || true' EXIT
check "nodes are ready" nodes_ready
check "pods run on both" pods_run
for node in $nodes; do
    check "a pod on node $node reaches a service on both nodes by its name" reaches_service "$node"
    check "a pod on node $node reaches the API server by its name" reaches_server "$node"
    check "what a privileged pod mounts from a loop device is seen by node $node" mount_reached_node "$node"
done
check "and not by this machine" mount_is_private
for kind in volumesnapshots volumesnapshotclasses volumesnapshotcontents snapshotmetadataservices; do
    check "$kind are served" is_served "$kind"
done
check "pods end" clean_up
for node in $nodes; do check "node $node gives its loop device back" undo_mount "$node"; done
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
