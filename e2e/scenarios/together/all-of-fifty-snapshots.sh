# Of fifty snapshots of a volume that is written to all but the first are exported incrementally, and each of them is restored.
secret many
numbers=$(seq 50)
claim disk 8Mi class=windlass-raw mode=Block
run_pod writer disk:/dev/disk
inside_pod writer 'dd if=/dev/urandom of=/dev/disk bs=1M count=8 2>/dev/null; sync'
declare -A blocks
for i in $numbers; do
    inside_pod writer "dd if=/dev/urandom of=/dev/disk bs=64k count=1 seek=$((i * 37 % 128)) conv=notrunc 2>/dev/null; sync"
    blocks[$i]=$(device_checksum writer /dev/disk)
    snapshot "hour$i" disk windlass-many
done
equal "$(exports_in many)" 50 "the exports in the repository"
finished=$(k get events -o json | jq -r '.items[] | select(.involvedObject.kind == "VolumeSnapshot" and .reason == "ExportFinished") | "\(.involvedObject.name) \(.message)"')
equal "$(wc -l <<<"$finished")" 50 "the exports that events tell of"
equal "$(grep -c ': incremental, ' <<<"$finished")" 49 "the incremental exports"
grep -q '^hour1 .*: full (' <<<"$finished" || fail "the first export was not a full one"
stock_restic many check --read-data >&2
disks=()
for i in $numbers; do
    claim "again$i" 8Mi class=windlass-many mode=Block from="VolumeSnapshot/hour$i"
    disks+=("again$i:/dev/again$i")
done
run_pod reader "${disks[@]}"
found=$(inside_pod reader 'for i in $(seq 50); do sha256sum </dev/again$i | cut -c 1-64; done')
equal "$(paste -sd ' ' <<<"$found")" "$(for i in $numbers; do printf '%s\n' "${blocks[$i]}"; done | paste -sd ' ')" "the restored blocks"
leaves_nothing
equal "$(exports_in many)" 0 "the exports after their snapshots were deleted"
