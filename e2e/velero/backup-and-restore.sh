#!/usr/bin/env bash
# Velero's own data mover over volumes of the driver: a namespace whose pod writes all the time is backed up three times, deleted, and restored.
# Ends with what each step cost and `N passed, N failed`; stops at the first thing that is not so, since all that follows hangs on it.
#
#   e2e/cluster/with-cluster e2e/velero/backup-and-restore.sh
#
# The pod appends numbered records to a file in a file system and writes numbered blocks to a raw device, each made durable, while backups are
# made. A restored volume must hold what stood still byte for byte, and the records from the first up to one that was written while the backup's
# snapshot was cut, each whole and none after it.
set -Eeuo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
. e2e/cluster/env.sh
patience=${WINDLASS_PATIENCE:-600}
namespace=velero-app
busybox=${WINDLASS_BUSYBOX:-docker.io/library/busybox:1.37}
. e2e/scenarios/library.sh
. e2e/velero/usage.sh
velero_program=$(tools_of velero)/velero
velero() { timeout "$patience" "$velero_program" "$@"; }

passed=0
# so SENTENCE: what was to be shown since the last one has been.
so() {
    passed=$((passed + 1))
    printf 'passed: %s\n' "$1"
}
# Ends the run: what was not so is the last thing that was printed.
ending() {
    local status=$?
    set +eE
    [ "$status" = 0 ] || {
        printf 'FAILED: after %s that passed\n' "$passed"
        look 2>&1 | tee "$run/log/velero-look.log" | tail -n 60 | cut -c 1-300 | sed 's/^/    /'
    }
    printf '%s passed, %s failed\n' "$passed" "$((status != 0))"
}
look() {
    kubectl -n velero logs deployment/velero --tail=2000 >"$run/log/velero-server.log"
    kubectl -n velero logs daemonset/node-agent --tail=2000 >"$run/log/velero-node-agent.log"
    kubectl -n windlass-system logs daemonset/windlass-node -c node --tail=2000 >"$run/log/driver.log"
    kubectl -n velero get backup,restore,dataupload,datadownload -o yaml >"$run/log/velero-objects.yaml"
    kubectl get pod,pvc,volumesnapshot -A -o wide
    kubectl -n "$namespace" get events --sort-by=.lastTimestamp -o custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message | tail -n 15
    grep -E 'level=(error|warning)' "$run/log/velero-server.log" "$run/log/velero-node-agent.log" | tail -n 15
}
trap ending EXIT
trap 'printf "line %s: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR

record_bytes=64
block_bytes=4096
# Blocks of the raw device that stand still, before those that are written all the time.
still_blocks=$((256 << 8))

writer() {
    cat <<'END'
trap "exit 0" TERM
# Told to, and not by being started: a restored pod is looked at before it goes on.
until [ -e /scratch/begin ]; do sleep 0.2; done
touch /data/log
n=$(($(stat -c %s /data/log) / 64))
while :; do
    n=$((n + 1))
    awk -v n="$n" 'BEGIN { printf "%063d\n", n }' >>/data/log
    sync /data/log
    awk -v n="$n" 'BEGIN { printf "%04095d\n", n }' | dd of=/dev/disk bs=4096 seek=$((65536 + n - 1)) conv=notrunc,fsync 2>/dev/null
    echo "$n" >/scratch/new
    mv /scratch/new /scratch/written
    sleep 0.5
done
END
}
make_writer() {
    apply <<END
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 2
  containers:
    - name: c
      image: $busybox
      imagePullPolicy: Never
      command: [sh, -c, $(writer | jq -Rs .)]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
      volumeMounts: [{name: scratch, mountPath: /scratch}, {name: files, mountPath: /data}]
      volumeDevices: [{name: raw, devicePath: /dev/disk}]
  volumes:
    - {name: scratch, emptyDir: {}}
    - {name: files, persistentVolumeClaim: {claimName: files}}
    - {name: raw, persistentVolumeClaim: {claimName: raw}}
END
}
written() { inside_pod writer 'cat /scratch/written'; }
goes_on() { [ "$(written)" -gt "$1" ]; }
files_checksum() { inside_pod writer "cd /data; find . -type f ! -path './lost+found/*' ! -name log -exec sha256sum {} + | sort -k 2 | sha256sum | cut -c 1-64"; }
device_checksum() { inside_pod writer "dd if=/dev/disk bs=4096 count=$still_blocks 2>/dev/null | sha256sum | cut -c 1-64"; }
allocated() { in_driver windlass volume list --endpoint unix:///csi/csi.sock --output json | jq --arg name "$1" '.volumes[] | select(.name == $name) | .allocated_bytes'; }
# within_five VOLUME BYTES: does it take that, give or take 5 %?
within_five() {
    local difference=$(($(allocated "$1") - $2))
    [ $((${difference#-} * 20)) -le "$2" ]
}

rows=()
seconds_of() { kubectl -n velero get "$1" "$2" -o json | jq -r '(.status | (.completionTimestamp | fromdate) - (.startTimestamp | fromdate))'; }
# moved KIND LABEL: of each volume, seconds and bytes.
moved() {
    kubectl -n velero get "$1" -l "$2" -o json | jq -r '[.items | sort_by(.spec.sourcePVC // .spec.targetVolume.pvc)[] |
        "\(.spec.sourcePVC // .spec.targetVolume.pvc) \((.status.completionTimestamp | fromdate) - (.status.startTimestamp | fromdate)) s"] | join(", ")'
}
mover_leaves_nothing() {
    local claims snapshots contents
    claims=$(kubectl -n velero get pvc -o name) && snapshots=$(kubectl get volumesnapshot -A -o name) && contents=$(kubectl get volumesnapshotcontent -o name) &&
        [ -z "$claims$snapshots$contents" ]
}
# row NAME KIND OBJECT MOVES LABEL: what was done since `begin_usage`.
row() {
    local seconds volumes cost
    seconds=$(seconds_of "$2" "$3")
    volumes=$(moved "$4" "$5")
    cost=$(end_usage)
    rows+=("$1 | $seconds | $volumes | $cost")
}

# back_up NAME
back_up() {
    local name=$1 uploads
    begin_usage
    velero backup create "$name" --include-namespaces "$namespace" --snapshot-move-data --wait >"$run/log/velero-$name.log"
    equal "$(kubectl -n velero get backup "$name" -o jsonpath='{.status.phase} {.status.errors}')" "Completed " "phase and errors of backup $name"
    uploads=$(kubectl -n velero get dataupload -l "velero.io/backup-name=$name" -o json)
    equal "$(jq -r '[.items[] | "\(.spec.sourcePVC) \(.status.phase) \(.status.node)"] | sort | join(", ")' <<<"$uploads")" \
        "files Completed node1, raw Completed node1" "what was uploaded"
    until_true "the mover's objects and snapshots are gone" mover_leaves_nothing
    row "backup, $name" backup "$name" dataupload "velero.io/backup-name=$name"
    so "$name: Completed, both volumes moved, and no snapshot, content or claim of it is left"
}

kubectl create namespace "$namespace" >/dev/null
claim files 1Gi class=windlass
claim raw 1Gi class=windlass-raw mode=Block
make_writer
ready writer
inside_pod writer 'mkdir /data/many; for i in $(seq 20); do dd if=/dev/urandom of=/data/file$i bs=1M count=16 2>/dev/null; done
    for i in $(seq 500); do echo $i $i >/data/many/$i; done; ln -s file1 /data/link; dd if=/dev/urandom of=/data/short bs=1M count=4 2>/dev/null
    dd if=/dev/urandom of=/dev/disk bs=1M count=256 conv=fsync 2>/dev/null; sync; touch /scratch/begin'
until_true "the pod writes" goes_on 5

back_up first
inside_pod writer 'dd if=/dev/urandom of=/data/file2 bs=1M seek=4 count=8 conv=notrunc 2>/dev/null; dd if=/dev/urandom of=/data/more bs=1M count=8 2>/dev/null
    dd if=/dev/urandom of=/dev/disk bs=1M seek=64 count=8 conv=notrunc,fsync 2>/dev/null; sync'
back_up second
inside_pod writer 'rm /data/short; mv /data/many/7 /data/many/seven; dd if=/dev/urandom of=/data/file9 bs=1M count=4 conv=notrunc 2>/dev/null
    dd if=/dev/urandom of=/dev/disk bs=1M seek=128 count=4 conv=notrunc,fsync 2>/dev/null; sync'
files=$(files_checksum)
device=$(device_checksum)
at_least=$(written)
back_up third
at_most=$(written)
[ "$at_most" -gt "$at_least" ] || fail "the pod wrote nothing during the third backup"
so "the pod went on writing during the backups: $at_most records and blocks"
files_take=$(allocated "$(volume_of files)")
device_takes=$(allocated "$(volume_of raw)")

kubectl delete namespace "$namespace" --wait --timeout="${patience}s" >/dev/null
until_true "its volumes are gone" nothing_left
so "the namespace is deleted, and its volumes with it"

begin_usage
velero restore create again --from-backup third --wait >"$run/log/velero-again.log"
equal "$(kubectl -n velero get restore again -o jsonpath='{.status.phase} {.status.errors}')" "Completed " "phase and errors of the restore"
ready writer
row "restore of the third" restore again datadownload velero.io/restore-name=again
so "the restore is Completed, and the pod runs with its volumes"

equal "$(files_checksum)" "$files" "the checksum of the restored files"
equal "$(inside_pod writer 'readlink /data/link')" file1 "the restored link"
so "the restored files are equal"
equal "$(device_checksum)" "$device" "the checksum of the restored device, of what stood still"
so "what stood still of the restored device is equal"

records=$(($(inside_pod writer 'stat -c %s /data/log') / record_bytes))
[ "$records" -ge "$at_least" ] && [ "$records" -le "$at_most" ] || fail "$records records were restored; $at_least were written before the backup, $at_most after it"
inside_pod writer "awk -v last=$records 'BEGIN { for (n = 1; n <= last; n++) printf \"%063d\n\", n }' | cmp - /data/log"
so "the restored file has the records 1 to $records, which were $at_least before the backup and $at_most after it"
# No block that was written has a byte of zeros.
stored=$(inside_pod writer "dd if=/dev/disk bs=$block_bytes skip=$still_blocks 2>/dev/null | tr -d '\\0' | wc -c")
equal $((stored % block_bytes)) 0 "bytes beside whole blocks"
blocks=$((stored / block_bytes))
[ "$blocks" -ge "$at_least" ] && [ "$blocks" -le "$at_most" ] || fail "$blocks blocks were restored; $at_least were written before the backup, $at_most after it"
inside_pod writer "awk -v last=$blocks 'BEGIN { for (n = 1; n <= last; n++) printf \"%04095d\n\", n }' >/scratch/wanted
    dd if=/dev/disk bs=$block_bytes skip=$still_blocks count=$blocks 2>/dev/null | cmp - /scratch/wanted; rm /scratch/wanted"
so "the restored device has the blocks 1 to $blocks, and zeros after them"

until_true "the restored file system takes what its source took, $files_take bytes, give or take 5 %" within_five "$(volume_of files)" "$files_take"
until_true "the restored device takes what its source took, $device_takes bytes, give or take 5 %" within_five "$(volume_of raw)" "$device_takes"
taken="files: $files_take before, $(allocated "$(volume_of files)") restored; raw: $device_takes before, $(allocated "$(volume_of raw)") restored"
so "both restored volumes take what their sources took, give or take 5 %"

inside_pod writer 'touch /scratch/begin'
until_true "the restored pod goes on" goes_on "$records"
so "the restored pod goes on where its records end"
leaves_nothing
so "nothing is left of the namespace"

printf '\nAllocated bytes: %s\n\n' "$taken"
printf '| what | s | of it each volume | CPU s: mover pods | node-agent | driver | MiB to the store | from it | MiB stored |\n|---|---:|---|---:|---:|---:|---:|---:|---:|\n'
printf '| %s |\n' "${rows[@]}"
