#!/usr/bin/env bash
# The first process of a node's mount, process, control group and network namespaces: makes a private view of the machine, then becomes
# `pause`. Nothing of the machine's own is changed. Called by up.sh as: node-init.sh NODE
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"
node=$1
own=$run/node$node

# Shared inside of this namespace only: whoever made it made it private to the machine. Pods that want mounts to reach the node need this.
umount -R -l /sys/fs/cgroup
mount --make-rshared /
mount -t proc proc /proc
mount -t sysfs sysfs /sys

groups=$(cut -d'|' -f1 "$own/groups")
if [ "$groups" = unified-only ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/init
    echo $$ >/sys/fs/cgroup/init/cgroup.procs
else
    # The root of each, in this namespace, is the node's own group.
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for controllers in $groups; do
        directory=/sys/fs/cgroup/${controllers#name=}
        mkdir "$directory"
        case $controllers in
            unified) mount -t cgroup2 cgroup2 "$directory" ;;
            name=*) mount -t cgroup -o "none,$controllers" cgroup "$directory" ;;
            *)
                mount -t cgroup -o "$controllers" cgroup "$directory"
                # Programs look for each controller at its own name.
                for controller in ${controllers//,/ }; do
                    [ "$controller" = "$controllers" ] || ln -s "$controllers" "/sys/fs/cgroup/$controller"
                done
                ;;
        esac
    done
fi

# Empty ones in place of the machine's: sockets and state of its own container runtime are not seen, and no directory is left in them.
mkdir -p "$own/disk"/{kubelet,containerd,cni,windlass,pods-log,containers-log}
mount --bind "$own/disk" /mnt
for directory in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs "$directory"; done
for directory in kubelet containerd cni windlass; do
    mkdir "/var/lib/$directory"
    mount --bind "/mnt/$directory" "/var/lib/$directory"
done
for directory in pods containers; do
    mkdir "/var/log/$directory"
    mount --bind "/mnt/$directory-log" "/var/log/$directory"
done
umount /mnt
mkdir -p -m 711 /run/containerd /run/lock

mount --bind "$run/hosts" /etc/hosts
# The kubelet sets these, and there is one of each on the machine: it is shown what it wants to see.
setting() {
    local file=$own/sysctl-${1//\//-}
    printf '%s\n' "$2" >"$file"
    mount --bind "$file" "/proc/sys/$1"
}
setting vm/overcommit_memory 1
setting vm/panic_on_oom 0
setting kernel/panic 10
setting kernel/panic_on_oops 1

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
if [ "$node" = 1 ]; then
    ip link add nodes type bridge
    ip address add "$node_network.1/24" dev nodes
    ip link set nodes up
    # It leads nowhere. Without one, addresses of services have no way out before they are translated.
    ip route add default via "$node_network.254" dev nodes
fi
touch "$own/ready"
exec "$run/pause" "$cluster_id-node$node"
