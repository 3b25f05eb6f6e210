#!/usr/bin/env bash
# Ends the cluster that up.sh brought up, and leaves nothing of it on the machine: no process, mount, loop device or control group.
#
#   e2e/cluster/down.sh           its directory stays, with keys, logs and disks: up.sh goes on where it was
#   e2e/cluster/down.sh --wipe    its directory goes too
#
# Ending the first process of a node ends every process in its namespaces, and with the last of them go mounts and network. Loop devices
# outlive that; which of them are the cluster's is found out before: those whose file lies in the cluster's directory, or in a file system
# that is on one of these, or is one of these. Says what could not be removed, and fails then.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"

[ "$(id -u)" = 0 ] || { echo "down.sh: this needs root" >&2; exit 1; }
[ -d "$run" ] || exit 0
exec 8>"$run/lock"
flock 8
status=0
left() { printf 'down.sh: left: %s\n' "$*" >&2; status=1; }

# within SECONDS COMMAND...: until the command succeeds; no longer than that.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

group_directories() { cut -d'|' -f2 "$run"/node*/groups 2>/dev/null | sort -u; }

# files_on LOOP: lines MAJOR:MINOR INODE of what lies in a Btrfs on this loop device. Its subvolumes have numbers of their own, which no
# table relates to the device; so it is mounted, for the moment and where nobody sees it. Prints nothing for any other file system.
files_on() {
    [ "$(blkid -p -o value -s TYPE "$1")" = btrfs ] || return 0
    unshare --mount --propagation private -- sh -c '
        mount -t btrfs "$1" /mnt && find /mnt -type f -exec stat -c "%Hd:%Ld %i" {} +' - "$1" || true
}

# our_loops: the loop devices that are the cluster's, those upon others first. A file system other than Btrfs has its device's number.
our_loops() {
    local name device inode files devices='' loop found=() order=()
    local -A file=()
    while read -r name device inode; do file[$name]="$device $inode"; done < <(losetup --list --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO)
    files=$(find "$run" -xdev -type f -printf "$(stat -c '%Hd:%Ld' "$run") %i\n")
    while :; do
        found=()
        for name in "${!file[@]}"; do
            # With a here-string, not a pipe: grep ends at the first match.
            if grep -qFx "${file[$name]}" <<<"$files" || grep -qFx "${file[$name]% *}" <<<"$devices"; then found+=("$name"); fi
        done
        [ ${#found[@]} -gt 0 ] || break
        order=("${found[@]}" "${order[@]}")
        files='' devices=''
        for loop in "${found[@]}"; do
            unset "file[$loop]"
            # The kubelet holds each raw block device that a pod has by a loop device upon its node.
            files+=$(files_on "$loop")$'\n'$(stat -c '%Hd:%Ld %i' "$loop")$'\n'
            devices+=7:${loop#/dev/loop}$'\n'
        done
    done
    printf '%s\n' "${order[@]}"
}

is_gone() { ! [ -e "$1" ]; }
is_detached() { ! losetup "$1" >/dev/null 2>&1; }
remove_group() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; ! [ -d "$1" ]; }

loops=$(our_loops)
for node in $nodes; do
    pid=$(node_pid "$node") || continue
    kill -KILL "$pid"
    within 30 is_gone "/proc/$pid" || left "process $pid of node $node"
done
for loop in $loops; do
    # One that is in use is detached when it no longer is; its file system goes with the last mount namespace.
    losetup --detach "$loop" 2>/dev/null || true
    within 20 is_detached "$loop" || left "$loop on $(losetup --noheadings --output BACK-FILE "$loop")"
done
for directory in $(group_directories); do
    within 10 remove_group "$directory" || left "control group $directory"
    rmdir "$(dirname "$directory")" 2>/dev/null || true
done
rm -rf "$run"/node*/{ready,init.pid,pids,groups}
if [ "${1-}" = --wipe ]; then
    [ "$status" = 0 ] || exit "$status"
    rm -rf "$run"
fi
exit "$status"
