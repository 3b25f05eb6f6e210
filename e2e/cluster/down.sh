#!/usr/bin/env bash
# Ends the cluster that up.sh brought up, and leaves nothing of it on the machine: no process, mount, loop device or control group.
#
#   e2e/cluster/down.sh           its directory stays, with keys, logs and disks: up.sh goes on where it was
#   e2e/cluster/down.sh --wipe    its directory goes too
#
# Ending the first process of a node ends every process in its namespaces, and with the last of them go mounts and network. Loop devices
# outlive that; which of them are the cluster's is found out before: those whose file lies in the cluster's directory, or in a file system
# that is on one of these. Says what could not be removed, and fails then.
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

# mounted_loops: lines MAJOR:MINOR /dev/loopN of the file systems that are mounted from loop devices anywhere in the cluster, each pod included.
mounted_loops() {
    local directory pid
    for directory in $(group_directories); do find "$directory" -name cgroup.procs -exec cat {} + 2>/dev/null || true; done | sort -un |
        while read -r pid; do printf '%s %s\n' "$(readlink "/proc/$pid/ns/mnt")" "$pid"; done 2>/dev/null | sort -u -k1,1 |
        while read -r _ pid; do
            awk '{ for (i = 7; i <= NF && $i != "-"; i++); if ($(i + 2) ~ "^/dev/loop[0-9]+$") print $3, $(i + 2) }' "/proc/$pid/mountinfo" 2>/dev/null || true
        done | sort -u
}

# our_loops MOUNTED: the loop devices that are the cluster's, those upon others first.
our_loops() {
    local device
    device=$(stat -c '%Hd:%Ld' "$run")
    awk -v run="$device" '
        FILENAME == ARGV[1] { inode[$1] = 1; next }
        FILENAME == ARGV[2] { carrier[$1] = $2; next }
        { back[$1] = $2; file[$1] = $3; split($1, part, "loop"); carrier["7:" part[2]] = $1 }
        END {
            for (found = 1; found;) {
                found = 0
                for (loop in back) {
                    if (loop in depth) continue
                    if (back[loop] == run && file[loop] in inode) { depth[loop] = 1; found = 1 }
                    else if (back[loop] in carrier && carrier[back[loop]] in depth) { depth[loop] = depth[carrier[back[loop]]] + 1; found = 1 }
                }
            }
            for (loop in depth) print depth[loop], loop
        }' <(find "$run" -xdev -type f -printf '%i\n') <(printf '%s\n' "$1") <(losetup --list --noheadings --raw --output NAME,BACK-MAJ:MIN,BACK-INO) |
        sort -rn | cut -d' ' -f2
}

is_gone() { ! [ -e "$1" ]; }
is_detached() { ! losetup "$1" >/dev/null 2>&1; }
remove_group() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; ! [ -d "$1" ]; }

loops=$(our_loops "$(mounted_loops)")
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
