# Claims, snapshots, restores and clones are deleted in any order, and what is left goes on working.
claim data 128Mi
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
end_pods writer
gone() { until_true "$1 is gone" refused kubectl get pv "$2"; }
snapshot monday data
snapshot tuesday data
claim one 128Mi from=VolumeSnapshot/monday
claim two 128Mi from=PersistentVolumeClaim/data
run_pod reader one:/one two:/two
source=$(volume_of data)
# The source first, then the snapshot of a restore that lives, then the clone's.
k delete pvc data --wait >/dev/null
gone "the source, which has snapshots and a clone," "$source"
equal "$(checksum reader /one)" "$before" "the restored files after their source went"
equal "$(checksum reader /two)" "$before" "the cloned files after their source went"
k delete volumesnapshot monday --wait >/dev/null
equal "$(checksum reader /one)" "$before" "the restored files after their snapshot went"
claim three 128Mi from=VolumeSnapshot/tuesday
run_pod late three:/three
equal "$(checksum late /three)" "$before" "what is restored from a snapshot whose source is gone"
# Restores first, then their snapshot.
end_pods reader late
for name in one two three; do
    volume=$(volume_of $name)
    k delete pvc $name --wait >/dev/null
    gone "$name" "$volume"
done
k delete volumesnapshot tuesday --wait >/dev/null
# A chain: a snapshot of a restore of a snapshot, deleted from its beginning.
claim root 64Mi
run_pod writer root:/data
fill writer /data 2
before=$(checksum writer /data)
snapshot first root
claim middle 64Mi from=VolumeSnapshot/first
run_pod through middle:/data
snapshot second middle
end_pods writer through
k delete pvc root --wait >/dev/null
k delete volumesnapshot first --wait >/dev/null
k delete pvc middle --wait >/dev/null
claim last 64Mi from=VolumeSnapshot/second
run_pod reader last:/data
equal "$(checksum reader /data)" "$before" "the end of the chain"
leaves_nothing
