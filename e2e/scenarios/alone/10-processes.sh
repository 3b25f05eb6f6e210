# What each container of the driver may do is what docs/kubernetes.md says, as /proc of the running containers has it.
# found CONTAINER: a row as in the table of the documentation.
found() {
    local process status ability seccomp gain devices mounts token network
    process=$(process_of "$1")
    [ -n "$process" ] || fail "no process of container $1"
    status=$(inside 1 cat "/proc/$process/status")
    value() { awk -v key="$1:" '$1 == key { print $2 }' <<<"$status"; }
    ability=$(value CapEff)
    case $ability in
        0000000000000000) ability=none ;;
        "$(awk '$1 == "CapBnd:" { print $2 }' /proc/self/status)") ability=all ;;
    esac
    [ "$(value Seccomp)" = 0 ] && seccomp=off || seccomp=on
    [ "$(value NoNewPrivs)" = 1 ] && gain=yes || gain=no
    has() { inside 1 test -e "/proc/$process/root$1" && echo yes || echo no; }
    devices=$(has /dev/loop-control)
    mounts=$(has /var/lib/kubelet/pods)
    # In some images /var/run leads to /run, and from outside that would be another's.
    token=$(has /run/secrets/kubernetes.io/serviceaccount/token)
    [ "$token" = yes ] || token=$(has /var/run/secrets/kubernetes.io/serviceaccount/token)
    network="$(inside 1 awk 'NR > 2 { sub(":", "", $1); print $1 }' "/proc/$process/net/dev" | paste -sd ' ')"
    if [ "$(inside 1 readlink "/proc/$process/ns/net")" = "$(inside 1 readlink "/proc/$(process_of csi-provisioner)/ns/net")" ]; then
        network=pod
    elif [ "$network" = lo ]; then
        network='none but lo'
    fi
    # Its root file system is read-only, whatever the manifest says.
    inside 1 awk '$5 == "/" && $6 ~ /^ro(,|$)/ { found = 1 } END { exit !found }' "/proc/$process/mountinfo" || fail "the root file system of $1 can be written to"
    [ "$(inside 1 readlink "/proc/$process/ns/net")" != "$(inside 1 readlink /proc/1/ns/net)" ] || fail "$1 is in the host's network"
    [ "$(inside 1 readlink "/proc/$process/ns/pid")" != "$(inside 1 readlink /proc/1/ns/pid)" ] || fail "$1 sees the host's processes"
    printf '| `%s` | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$1" "$(value Uid)" "$ability" "$seccomp" "$gain" "$devices" "$mounts" \
        "$token" "$(has /tls/tls.key)" "$network"
}
driver_ready
# What the agent has open: no device but those that every process has, and no core of it is ever written.
agent=$(process_of agent)
devices=$(inside 1 sh -c 'for file in "/proc/$0/fd/"*; do readlink "$file"; done' "$agent" | grep '^/dev/' | grep -v '^/dev/null$' || true)
[ -z "$devices" ] || fail "the agent has open: $devices"
inside 1 grep -qE '^Max core file size +0 +0 ' "/proc/$agent/limits" || fail "the agent may leave a core"
for container in node agent csi-provisioner csi-snapshotter csi-resizer csi-snapshot-metadata; do
    equal "$(found "$container")" "$(grep -F "| \`$container\` |" docs/kubernetes.md)" "what $container may do"
done
kubectl delete namespace "$namespace" --wait=false >/dev/null
