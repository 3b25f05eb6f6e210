# To be sourced by the other scripts of this directory: where the cluster is, what its parts are called, how one gets inside.
#
# Environment:
#   WINDLASS_CLUSTER_DIR   where a cluster keeps all that it has: keys, logs, images, both nodes' disks (target/cluster of this checkout).
#                          Two directories are two clusters, which know nothing of each other.
#   WINDLASS_TOOLS_CACHE   where the built tools are kept (~/.cache/windlass-e2e). Not ~/.cache/windlass: that is the product's own, which
#                          clears what it finds there.

cluster_source=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
project=$(cd "$cluster_source/../.." && pwd)
tools_source=$project/e2e/tools
tools_cache=${WINDLASS_TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/windlass-e2e}
tool_modules="kubernetes snapshot-metadata container-runtime"

. "$project/e2e/target.sh"
run=$(realpath -m "${WINDLASS_CLUSTER_DIR:-$target/cluster}")
# Names of what is the machine's and not the directory's: control groups.
cluster_id=windlass-$(printf '%s' "$run" | sha256sum | cut -c 1-8)
nodes="1 2"
pod_network=10.244
service_network=10.0.0
node_network=10.99.0
api_port=6443

export KUBECONFIG=$run/kubeconfig/admin.conf

# tools_of MODULE: the directory of the programs that are built from it.
tools_of() {
    local module=$tools_source/$1 hash
    hash=$({
        # The second line is for changes of the flags in build.sh.
        GOTOOLCHAIN=local go version 2>/dev/null || /usr/local/go/bin/go version
        echo 1
        cd "$module" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -c 1-16)
    printf '%s/%s-%s\n' "$tools_cache" "$1" "$hash"
}

# choose_tools: notes which built tools the cluster uses; it keeps them until it is brought up again.
choose_tools() {
    local module
    for module in $tool_modules; do tools_of "$module"; done >"$run/tools.new"
    mv "$run/tools.new" "$run/tools"
}

# tool NAME: the path of a program, whichever module it is from.
tool() {
    local directory
    while read -r directory; do
        if [ -x "$directory/$1" ]; then
            printf '%s\n' "$directory/$1"
            return
        fi
    done <"$run/tools"
    printf '%s is not built (e2e/cluster/build.sh)\n' "$1" >&2
    return 1
}

# What a node's first process is called. It is looked for by this, so that a number that was given to another process is not taken for it.
node_init() { printf '%s/pause %s-node%s' "$run" "$cluster_id" "$1"; }

# node_pid NODE: the number, on this machine, of the first process of a node's namespaces, if the node is up.
node_pid() {
    local pid
    pid=$(cat "$run/node$1/init.pid" 2>/dev/null) || return 1
    [ -n "$pid" ] && [ "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" = "$(node_init "$1") " ] && printf '%s\n' "$pid"
}

# join_groups NODE PID: puts a process into a node's control groups.
join_groups() {
    local controllers directory
    while IFS='|' read -r controllers directory; do
        # The second version allows no process beside child groups.
        [ "$controllers" != unified-only ] || directory=$directory/init
        printf '%s\n' "$2" >"$directory/cgroup.procs" || return 1
    done <"$run/node$1/groups"
}

# inside NODE COMMAND...: runs a command inside a node: in its mount, process, network and control group namespaces, and in its control groups.
# The checkout is there, at its own path; what lies below /run, /var/lib and /var/log is the node's own.
inside() {
    local node=$1 pid
    shift
    pid=$(node_pid "$node") || { printf 'node %s is not up (e2e/cluster/up.sh)\n' "$node" >&2; return 1; }
    (
        join_groups "$node" "$BASHPID" && exec nsenter -t "$pid" -m -p -C -n --wd="$PWD" -- "$@"
    )
}

# cluster_kubectl ARGUMENT...: kubectl, with the administrator's rights. Only the first node's network is entered: files are this machine's.
cluster_kubectl() {
    local pid
    pid=$(node_pid 1) || { printf 'the cluster is not up (e2e/cluster/up.sh)\n' >&2; return 1; }
    nsenter -t "$pid" -n -- "$(tool kubectl)" "$@"
}
