# To be sourced after env.sh and scenarios/library.sh: what backups cost. Processor time is what control groups of node 1 count, so that a pod that has ended
# is in it: its time stays in the group above. The kernel's own threads are in none, so the work of loop devices is not.

# processor_time GROUP: nanoseconds of a control group of node 1, by its path there.
processor_time() {
    inside 1 sh -c '
        if [ -e "/sys/fs/cgroup/cpuacct$1/cpuacct.usage" ]; then cat "/sys/fs/cgroup/cpuacct$1/cpuacct.usage"
        else awk "\$1 == \"usage_usec\" { print \$2 * 1000 }" "/sys/fs/cgroup$1/cpu.stat"; fi' - "$1"
}
# group_of NAMESPACE SELECTOR CONTAINER: the control group of a container on node 1.
group_of() {
    local id
    id=$(kubectl -n "$1" get pod -l "$2" --field-selector spec.nodeName=node1 -o json |
        jq -r --arg name "$3" '.items[].status.containerStatuses[] | select(.name == $name) | .containerID')
    inside 1 sh -c 'cd /sys/fs/cgroup; [ ! -d cpuacct ] || cd cpuacct; find . -type d -name "$1"' - "${id#containerd://}" | sed 's/^\.//'
}
in_store() { kubectl -n store exec minio -c minio -- "$@"; }

# begin_usage: notes what the counters say. They are of groups that live as long as this runs.
begin_usage() {
    usage_groups=(
        # Of node 1 only the mover's pods are of this class (install.sh).
        /kubepods/besteffort
        "$(group_of velero name=node-agent node-agent)"
        "$(group_of "$driver_namespace" app.kubernetes.io/name=windlass node)"
    )
    usage_before=$(usage_now)
}
usage_now() {
    local group
    for group in "${usage_groups[@]}"; do processor_time "$group"; done
    in_store cat /proc/net/dev | awk -F'[: ]+' '$2 == "eth0" { print $3, $11 }' | tr ' ' '\n'
    in_store sh -c 'find /data/backups -type f -exec stat -c %s {} +' | awk '{ n += $1 } END { printf "%.0f\n", n }'
}
# end_usage: since then, as columns of a table: seconds of the mover's pods, of the node-agent, of the driver; MiB to the store and from it; MiB that
# the store has more.
end_usage() {
    local after
    after=$(usage_now)
    equal "$(printf '%s\n' "$usage_before" "$after" | grep -cE '^[0-9]+$')" 12 "numbers that were read"
    paste <(printf '%s\n' "$usage_before") <(printf '%s\n' "$after") |
        awk 'NR <= 3 { printf "%.2f | ", ($2 - $1) / 1e9; next } { printf "%.1f%s", ($2 - $1) / 1048576, NR < 6 ? " | " : "\n" }'
}
