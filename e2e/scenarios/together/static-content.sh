# A snapshot is brought into another namespace by its handle alone, as a file system and as raw blocks, and is deleted only when it should be.
claim data 128Mi
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
snapshot monday data windlass-retain
handle=$(handle_of monday)
original=$(content_of monday)
for policy in Retain Delete; do
    kubectl apply -f - >/dev/null <<END
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata:
  name: $namespace-${policy,,}
  annotations: {snapshot.storage.kubernetes.io/allow-volume-mode-change: "true"}
spec:
  driver: $driver
  deletionPolicy: $policy
  sourceVolumeMode: Filesystem
  source: {snapshotHandle: $handle}
  volumeSnapshotRef: {namespace: $namespace, name: imported-${policy,,}}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: imported-${policy,,}, namespace: $namespace}
spec: {source: {volumeSnapshotContentName: $namespace-${policy,,}}}
END
    snapshot_ready "imported-${policy,,}"
done
equal "$(k get volumesnapshot imported-retain -o jsonpath='{.status.restoreSize}')" 128Mi "the size of an imported snapshot"
claim files 128Mi from=VolumeSnapshot/imported-retain
claim blocks 128Mi class=windlass-raw mode=Block from=VolumeSnapshot/imported-delete
run_pod reader files:/data blocks:/dev/disk
equal "$(checksum reader /data)" "$before" "the imported files"
inside_pod reader 'dd if=/dev/disk bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1' | grep -q '53 ef' || fail "the raw blocks are not those of the ext4"
# An object that retains goes without what it stands for; one that deletes takes it along, and what is left over says so by going quietly.
k delete volumesnapshot imported-retain --wait >/dev/null
kubectl delete volumesnapshotcontent "$namespace-retain" --wait >/dev/null
claim later 128Mi from=VolumeSnapshot/monday
run_pod later later:/data
equal "$(checksum later /data)" "$before" "what is restored after a retained object went"
k delete volumesnapshot imported-delete --wait --timeout="${patience}s" >/dev/null
until_true "its content is gone" refused kubectl get volumesnapshotcontent "$namespace-delete"
k delete volumesnapshot monday --wait >/dev/null
kubectl delete volumesnapshotcontent "$original" --wait >/dev/null
leaves_nothing
