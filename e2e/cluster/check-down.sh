#!/usr/bin/env bash
# Ends the cluster by down.sh --wipe and checks that nothing of it is left, also of what nobody has taken down: loop devices upon loop devices,
# in file systems that are mounted in a node alone. Ends with `N passed, N failed`.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"

. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../checks.sh"

# As a pool has them: each volume in a subvolume.
leave_loops() {
    inside 1 bash -ec '
        cd /var/lib/windlass
        truncate -s 256M left.img
        mkfs.btrfs --quiet left.img >/dev/null
        outer=$(losetup --find --show left.img)
        mkdir -p /var/lib/kubelet/left
        mount "$outer" /var/lib/kubelet/left
        btrfs subvolume create /var/lib/kubelet/left/volume >/dev/null
        truncate -s 32M /var/lib/kubelet/left/volume/data
        mkfs.ext4 -q /var/lib/kubelet/left/volume/data
        inner=$(losetup --find --show /var/lib/kubelet/left/volume/data)
        mkdir -p /var/lib/kubelet/left-volume
        mount "$inner" /var/lib/kubelet/left-volume
        for loop in "$outer" "$inner"; do losetup --list --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO "$loop"; done'
}
none_left() {
    local line
    while read -r line; do
        # The same device may be of another file by now.
        ! losetup --list --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO | grep -Fx "$line" || return 1
    done <<<"$left"
}
# Not as an argument, which would be found.
no_process() { ! grep -l -s -z -F -f <(printf '%s' "$run") /proc/[0-9]*/cmdline; }
no_mount() { ! grep -F "$run" /proc/self/mountinfo; }
no_group() { [ -z "$(find /sys/fs/cgroup -type d -name "$cluster_id")" ]; }
no_directory() { ! [ -e "$run" ]; }

# Without any there would be nothing to check.
left=$(leave_loops)
check "the cluster ends" "$cluster_source/down.sh" --wipe
check "its loop devices are detached" none_left
check "no process of it is left" no_process
check "no mount of it is left" no_mount
check "no control group of it is left" no_group
check "its directory is gone" no_directory
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
