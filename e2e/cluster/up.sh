#!/usr/bin/env bash
# Brings up a Kubernetes cluster of two nodes on this machine, without a container engine and without a registry. Run as root.
#
#   e2e/cluster/up.sh       also when it is up: then it starts what has ended meanwhile, and changes nothing else
#   e2e/cluster/k ...       kubectl          e2e/cluster/inns NODE ...   runs a command inside a node
#   e2e/cluster/down.sh     ends it and leaves nothing
#
# Each node is a set of namespaces (mount, process, control group, network), whose first process does nothing (node-init.sh, pause.c). Every
# program of the node is started inside, so that killing that one process ends all of them, containers included. Nothing listens on the
# machine itself: the nodes' networks are joined to each other and to nothing else. Both see the machine's devices.
#
# Node 1 has the control plane too: etcd, API server, controller manager, scheduler. Both run containerd, kubelet and kube-proxy. The
# cluster's own services run as pods: DNS, snapshot-controller with the CRDs of snapshots. A driver is not installed here.
#
# All that the cluster has is in one directory (env.sh): logs in log/, a node's disk in node1/disk. Programs come from build.sh, images from
# images.sh.
#
# Tried with control groups of version 1 (Debian 12, Linux 6.18). Those of version 2 alone are provided for and were not tried.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"
. "$cluster_source/components.sh"

begin=$(date +%s%N)
say() { printf '[%5s s] %s\n' "$(awk -v t=$(($(date +%s%N) - begin)) 'BEGIN { printf "%.1f", t / 1e9 }')" "$*"; }
# fail TEXT [LOG...]: what went wrong, and the ends of the logs that may say why.
fail() {
    local log
    printf 'up.sh: %s\n' "$1" >&2
    shift
    for log in "$@"; do
        [ ! -s "$run/log/$log.log" ] || { printf '%s\n' "-- end of $run/log/$log.log"; tail -n 15 "$run/log/$log.log" | cut -c 1-400; } >&2
    done
    printf 'up.sh: all logs are in %s\n' "$run/log" >&2
    exit 1
}

# wait_for SECONDS WHAT LOG COMMAND...: until the command succeeds; no longer than that.
wait_for() {
    local limit=$1 what=$2 log=$3 end
    shift 3
    end=$((SECONDS + limit))
    until "$@" >"$run/log/waiting.log" 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "after $limit s still not so: $what ($(tail -n 1 "$run/log/waiting.log"))" $log
        sleep 0.1
    done
    say "$what"
}

check_machine() {
    local program directory
    [ "$(id -u)" = 0 ] || fail "this needs root"
    for program in ip nft nsenter unshare openssl losetup gcc; do
        command -v "$program" >/dev/null || fail "$program is missing (e2e/setup.sh e2e)"
    done
    for directory in /run /var/lib /var/log /mnt; do
        case $run/ in "$directory"/*) fail "the cluster's directory cannot lie below $directory, which nodes have for themselves: $run" ;; esac
    done
    for program in kube-apiserver containerd; do tool "$program" >/dev/null || fail "the tools are not built (e2e/cluster/build.sh)"; done
}

# make_groups NODE: a control group for the node in each hierarchy that there is, below the caller's own; its file `groups` then has lines of
# CONTROLLERS|DIRECTORY.
make_groups() {
    local node=$1 id controllers path mount parent
    local list=$run/node$node/groups
    : >"$list"
    while IFS=: read -r id controllers path; do
        mount=$(awk -v wanted="${controllers:-unified}" '{
            for (i = 7; i <= NF && $i != "-"; i++);
            type = $(i + 1); options = "," $(i + 3) ","
            if (wanted == "unified" ? type == "cgroup2" : type == "cgroup" && index(options, "," wanted ",")) { print $5 "|" $4; exit }
        }' /proc/self/mountinfo)
        [ -n "$mount" ] || continue
        # A path is told from the hierarchy's root, which need not be what is mounted.
        parent=${mount%|*}/${path#"${mount#*|}"}
        printf '%s|%s\n' "${controllers:-unified}" "$(realpath -m "$parent/$cluster_id/node$node")" >>"$list"
    done </proc/self/cgroup
    [ -s "$list" ] || fail "no control groups are mounted"
    if [ "$(cut -d'|' -f1 "$list")" = unified ]; then
        # Version 2 alone. Controllers are passed on only by groups without processes: the top is one, the caller's group is not.
        mount=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)
        printf 'unified-only|%s\n' "$mount/$cluster_id/node$node" >"$list"
        mkdir -p "$mount/$cluster_id/node$node/init"
        for controllers in $(cat "$mount/cgroup.controllers"); do
            for path in "$mount" "$mount/$cluster_id"; do echo "+$controllers" >"$path/cgroup.subtree_control" 2>/dev/null || true; done
        done
        return
    fi
    while IFS='|' read -r controllers path; do
        mkdir -p "$path"
        case ,$controllers, in *,cpuset,*)
            # A new one has no processors, and takes no process.
            parent=$(dirname "$(dirname "$path")")
            for directory in "$(dirname "$path")" "$path"; do
                cat "$parent/cpuset.cpus" >"$directory/cpuset.cpus"
                cat "$parent/cpuset.mems" >"$directory/cpuset.mems"
                echo 1 >"$directory/cgroup.clone_children"
            done
            ;;
        esac
    done <"$list"
}

start_node() {
    local node=$1 starter
    ! node_pid "$node" >/dev/null || return 0
    rm -rf "$run/node$node"/{ready,init.pid,pids}
    mkdir -p "$run/node$node/pids"
    make_groups "$node"
    (
        while IFS='|' read -r _ directory; do echo "$BASHPID" >"$directory/cgroup.procs"; done <"$run/node$node/groups"
        exec setsid unshare --mount --pid --cgroup --net --fork --propagation private -- "$cluster_source/node-init.sh" "$node"
    ) >"$run/log/node$node.log" 2>&1 </dev/null 8>&- &
    starter=$!
    disown
    wait_for 20 "node $node has its namespaces" "node$node" test -e "$run/node$node/ready"
    tr -d ' ' <"/proc/$starter/task/$starter/children" >"$run/node$node/init.pid"
    wait_for 5 "node $node's first process is $(cat "$run/node$node/init.pid")" "node$node" node_pid "$node"
    # What waits for it outside must not be in the way of control groups of the second version.
    join_groups "$node" "$starter"
}

connect_nodes() {
    local node first other
    first=$(node_pid 1)
    for node in $nodes; do
        [ "$node" != 1 ] || continue
        other=$(node_pid "$node")
        ! nsenter -t "$other" -n ip link show eth0 >/dev/null 2>&1 || continue
        nsenter -t "$first" -n ip link add "node$node" type veth peer name eth0 netns "$other"
        nsenter -t "$first" -n ip link set "node$node" master nodes up
        nsenter -t "$first" -n ip route add "$pod_network.$node.0/24" via "$node_network.$node"
        nsenter -t "$other" -n ip address add "$node_network.$node/24" dev eth0
        nsenter -t "$other" -n ip link set eth0 up
        nsenter -t "$other" -n ip route add default via "$node_network.1"
        nsenter -t "$other" -n ip route add "$pod_network.1.0/24" via "$node_network.1"
    done
}

containerd_answers() { inside "$1" "$(tool ctr)" -a /run/containerd/containerd.sock version; }

# Objects that are the cluster's own in every distribution; a chart only asks whether they are there.
apply_services() {
    local directory
    for directory in $(cat "$run/tools"); do
        [ ! -d "$directory/manifests" ] || cluster_kubectl apply --server-side --force-conflicts -f "$directory/manifests" || return 1
    done
    cluster_kubectl apply --server-side --force-conflicts -f "$cluster_source/manifests"
}

mkdir -p "$run/log"
exec 8>"$run/lock"
flock 8
choose_tools
check_machine
"$cluster_source/images.sh" || fail "the images could not be made"
[ -x "$run/pause" ] || gcc -O2 -static -o "$run/pause" "$cluster_source/pause.c"
"$cluster_source/pki.sh" || fail "the keys could not be made"
{
    printf '127.0.0.1 localhost\n::1 localhost\n'
    for node in $nodes; do printf '%s node%s\n' "$node_network.$node" "$node"; done
} >"$run/hosts"

for node in $nodes; do start_node "$node"; done
connect_nodes
start_store_and_server
for node in $nodes; do start_containerd "$node"; done
for node in $nodes; do
    wait_for 60 "containerd answers on node $node" "containerd$node" containerd_answers "$node"
    "$cluster_source/images.sh" import "$node" || fail "images could not be imported on node $node" "containerd$node"
done
say "images are imported"
wait_for 120 "the API server is ready" kube-apiserver cluster_kubectl get --raw /readyz
start_control_plane
for node in $nodes; do start_kubelet "$node"; start_proxy "$node"; done
apply_services >"$run/log/apply.log" 2>&1 || fail "the cluster's own services could not be applied" apply
for node in $nodes; do
    wait_for 120 "node $node is registered" "kubelet$node" cluster_kubectl get node "node$node"
    wait_for 120 "node $node is ready" "kubelet$node" cluster_kubectl wait --for=condition=Ready "node/node$node" --timeout=10s
done
wait_for 120 "names are resolved" "kubelet2" cluster_kubectl -n kube-system rollout status deployment/coredns --timeout=10s
wait_for 120 "snapshots are served" "kubelet2" cluster_kubectl -n kube-system rollout status deployment/snapshot-controller --timeout=10s
say "the cluster is up: $run"
