# To be sourced after env.sh: the programs of a node, and how they are started, ended and told from others.
#
# Each is a child of nobody, in the namespaces and control groups of its node. Its number there is in nodeN/pids/NAME, its output is
# appended to log/NAME.log. To start what runs already does nothing.

# Runs in a node's namespaces, hence without any function of here: is the process whose number a file has still that program?
is_running='[ "/proc/$(cat "$1" 2>/dev/null)/exe" -ef "$2" ]'

# start NODE NAME PROGRAM ARGUMENT...: a program of the node, unless it runs. It outlives this script; its output is in log/NAME.log.
start() {
    local node=$1 name=$2 program=$3 number
    shift 3
    number=$run/node$node/pids/$name
    [ ! -e "$number" ] || ! inside "$node" sh -c "$is_running" - "$number" "$program" || return 0
    inside "$node" sh -c 'echo $$ >"$1"; shift; exec setsid "$@"' - "$number" "$program" "$@" >>"$run/log/$name.log" 2>&1 </dev/null 8>&- &
    disown
}

# end NODE NAME SIGNAL: sends the signal to a program of the node that `start` has started, and waits until it has ended.
end() {
    local node=$1 name=$2 signal=$3 number
    number=$run/node$node/pids/$name
    [ -e "$number" ] || { printf '%s was not started on node %s\n' "$name" "$node" >&2; return 1; }
    inside "$node" sh -c '
        read -r pid <"$1"
        kill -"$2" "$pid" || exit
        tries=300
        while [ -e "/proc/$pid" ]; do
            [ "$tries" -gt 0 ] || { echo "process $pid has not ended within 30 s" >&2; exit 1; }
            tries=$((tries - 1))
            sleep 0.1
        done' - "$number" "$signal"
    rm -f "$number"
}

start_store_and_server() {
    local keys=$run/pki
    start 1 etcd "$(tool etcd)" --name one --data-dir "$run/node1/etcd" --log-level warn --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster one=http://127.0.0.1:2380
    start 1 kube-apiserver "$(tool kube-apiserver)" --etcd-servers=http://127.0.0.1:2379 \
        --bind-address=0.0.0.0 --advertise-address="$node_network.1" --secure-port="$api_port" \
        --tls-cert-file="$keys/apiserver.crt" --tls-private-key-file="$keys/apiserver.key" --client-ca-file="$keys/ca.crt" \
        --service-account-key-file="$keys/service-accounts.pub" --service-account-signing-key-file="$keys/service-accounts.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local --api-audiences=https://kubernetes.default.svc.cluster.local \
        --service-cluster-ip-range="$service_network.0/24" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        --allow-privileged=true --kubelet-client-certificate="$keys/kubelet-client.crt" --kubelet-client-key="$keys/kubelet-client.key" \
        --kubelet-certificate-authority="$keys/ca.crt" --kubelet-preferred-address-types=InternalIP \
        --requestheader-client-ca-file="$keys/ca.crt" --requestheader-allowed-names=front-proxy-client \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --proxy-client-cert-file="$keys/front-proxy-client.crt" \
        --proxy-client-key-file="$keys/front-proxy-client.key" --profiling=false
}

start_control_plane() {
    local keys=$run/pki config
    config=$run/kubeconfig/controller-manager.conf
    start 1 kube-controller-manager "$(tool kube-controller-manager)" --kubeconfig="$config" --authentication-kubeconfig="$config" \
        --authorization-kubeconfig="$config" --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true \
        --service-account-private-key-file="$keys/service-accounts.key" --root-ca-file="$keys/ca.crt" \
        --cluster-signing-cert-file="$keys/ca.crt" --cluster-signing-key-file="$keys/ca.key" --profiling=false
    config=$run/kubeconfig/scheduler.conf
    start 1 kube-scheduler "$(tool kube-scheduler)" --kubeconfig="$config" --authentication-kubeconfig="$config" \
        --authorization-kubeconfig="$config" --bind-address=127.0.0.1 --leader-elect=false --profiling=false
}

start_containerd() {
    local node=$1 own=$run/node$1
    mkdir -p "$own/cni"
    # Each pod has a link of its own that is routed: on a bridge, answers of a pod to another on the same node would go around the
    # translation of service addresses.
    cat >"$own/cni/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pod_network.$node.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
END
    cat >"$own/containerd.toml" <<END
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "$(tool runc)"
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["$(dirname "$(tool ptp)")"]
    conf_dir = "$own/cni"
END
    local containerd
    containerd=$(tool containerd)
    # It looks for its shim there.
    PATH=$(dirname "$containerd"):$PATH start "$node" "containerd$node" "$containerd" -c "$own/containerd.toml"
}

start_kubelet() {
    local node=$1 own=$run/node$1 keys=$run/pki
    cat >"$own/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_network.$node
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $keys/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $keys/kubelet$node.crt
tlsPrivateKeyFile: $keys/kubelet$node.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [$service_network.10]
clusterDomain: cluster.local
# The machine's own names are not for pods.
resolvConf: ""
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
# No registry could give an image back.
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 240h
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
nodeStatusUpdateFrequency: 5s
# A running pod's volume grows when the kubelet next looks at the pod, which else is once a minute.
syncFrequency: 10s
# A container that was killed often is not waited for longer each time.
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
volumePluginDir: /var/lib/kubelet/volumeplugins
END
    start "$node" "kubelet$node" "$(tool kubelet)" --config="$own/kubelet.yaml" --kubeconfig="$run/kubeconfig/kubelet$node.conf" \
        --hostname-override="node$node" --node-ip="$node_network.$node" --root-dir=/var/lib/kubelet --v=2
}

start_proxy() {
    local node=$1
    # Limits of the machine's connection tracking are the machine's.
    start "$node" "kube-proxy$node" "$(tool kube-proxy)" --kubeconfig="$run/kubeconfig/proxy.conf" --hostname-override="node$node" \
        --proxy-mode=nftables --cluster-cidr="$pod_network.0.0/16" --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
        --conntrack-tcp-timeout-close-wait=0 --healthz-bind-address=127.0.0.1 --metrics-bind-address=127.0.0.1
}
