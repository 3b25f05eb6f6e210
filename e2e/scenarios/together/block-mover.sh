# Velero's block mover, object by object: a full backup, an incremental one whose base is deleted, a restore as raw blocks, and its claim as a file system.
# The mover's namespace is the application's here; what names would be in two namespaces have a prefix.
backup_account
claim data 128Mi
run_pod app data:/data
fill app /data
# Holds the backup, as an object store would.
claim store 200Mi
run_pod maker store:/store
inside_pod maker 'truncate -s 128M /store/image'
end_pods maker

# backup NUMBER BASE-HANDLE: what velero-block does. Leaves the handle of its snapshot, which is deleted by then, in `parent`.
backup() {
    local number=$1 base=$2 source handle size arguments
    snapshot "velero-$number" data
    source=$(content_of "velero-$number")
    handle=$(handle_of "velero-$number")
    size=$(k get volumesnapshot "velero-$number" -o jsonpath='{.status.restoreSize}')
    # A second content for the same handle, and the first one's objects taken away without the snapshot.
    kubectl apply -f - >/dev/null <<END
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata:
  name: $namespace-du-$number
  annotations: {snapshot.storage.kubernetes.io/allow-volume-mode-change: "true"}
spec:
  driver: $driver
  deletionPolicy: Delete
  volumeSnapshotClassName: windlass-local
  source: {snapshotHandle: $handle}
  volumeSnapshotRef: {namespace: $namespace, name: du-$number}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: du-$number, namespace: $namespace}
spec: {volumeSnapshotClassName: windlass-local, source: {volumeSnapshotContentName: $namespace-du-$number}}
END
    kubectl patch volumesnapshotcontent "$source" --type=merge -p '{"spec": {"deletionPolicy": "Retain"}}' >/dev/null
    k delete volumesnapshot "velero-$number" --wait --timeout="${patience}s" >/dev/null
    kubectl delete volumesnapshotcontent "$source" --wait --timeout="${patience}s" >/dev/null
    snapshot_ready "du-$number"
    # Raw blocks of a file system's snapshot, at once.
    claim "du-$number" "$size" class=windlass-immediate mode=Block from="VolumeSnapshot/du-$number"
    k wait --for=jsonpath='{.status.phase}'=Bound "pvc/du-$number" --timeout="${patience}s" >/dev/null
    run_pod "du-$number" "du-$number:/dev/disk" store:/store account=backup
    give_program "du-$number"
    arguments=(-snapshot "du-$number")
    [ -z "$base" ] || arguments+=(-base-handle "$base")
    answer=$(ask "du-$number" "${arguments[@]}" -from /dev/disk -to /store/image)
    inside_pod "du-$number" 'cmp /dev/disk /store/image'
    # Its clean-up.
    end_pods "du-$number"
    k delete pvc "du-$number" --wait >/dev/null
    k delete volumesnapshot "du-$number" --wait --timeout="${patience}s" >/dev/null
    until_true "the snapshot is deleted" refused kubectl get volumesnapshotcontent "$namespace-du-$number"
    parent=$handle
}
backup 1 ''
inside_pod app 'dd if=/dev/urandom of=/data/new bs=1M count=2 conv=fsync 2>/dev/null; rm /data/file1; sync'
backup 2 "$parent"
read -r _ bytes _ < <(totals <<<"$answer")
[ "$bytes" -ge $((2 << 20)) ] && [ "$bytes" -lt $((16 << 20)) ] || fail "the second backup moved $bytes bytes; 2 MiB were written"
before=$(checksum app /data)
end_pods app
k delete pvc data --wait >/dev/null

# The restore: the target claim waits behind a selector that nothing matches yet.
apply <<END
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: windlass
  resources: {requests: {storage: 128Mi}}
  selector: {matchLabels: {velero.io/dynamic-pv-restore: $namespace.data.abcde}}
END
claim dd 128Mi class=windlass-immediate mode=Block
run_pod dd dd:/dev/disk store:/store
inside_pod dd 'dd if=/store/image of=/dev/disk bs=1M conv=fsync 2>/dev/null'
volume=$(volume_of dd)
kubectl patch pv "$volume" --type=merge -p '{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}' >/dev/null
end_pods dd
k delete pvc dd --wait >/dev/null
kubectl get pv "$volume" -o json | jq --arg namespace "$namespace" '{apiVersion, kind,
    metadata: {name: "\(.metadata.name)-restored", annotations: {"pv.kubernetes.io/provisioned-by": .spec.csi.driver},
        labels: {"velero.io/dynamic-pv-restore": "\($namespace).data.abcde"}},
    spec: (.spec | .volumeMode = "Filesystem" | .storageClassName = "windlass" | .persistentVolumeReclaimPolicy = "Delete"
        | .claimRef = {kind: "PersistentVolumeClaim", namespace: $namespace, name: "data"} | .csi.fsType = "ext4"
        | del(.csi.volumeAttributes["storage.kubernetes.io/csiProvisionerIdentity"]))}' >"/tmp/$namespace.json"
kubectl delete pv "$volume" --wait >/dev/null
kubectl apply -f "/tmp/$namespace.json" >/dev/null
rm "/tmp/$namespace.json"
k patch pvc data --type=merge -p "{\"spec\": {\"volumeName\": \"$volume-restored\"}}" >/dev/null
k wait --for=jsonpath='{.status.phase}'=Bound pvc/data --timeout="${patience}s" >/dev/null
run_pod again data:/data
equal "$(checksum again /data)" "$before" "the restored files"
# The mover wrote every block of the volume, and most of them are zeros: these are given back to the pool.
allocated() { in_driver windlass volume list --endpoint unix:///csi/csi.sock --output json | jq --arg name "$volume" '.volumes[] | select(.name == $name) | .allocated_bytes'; }
thin() { [ "$(allocated)" -lt $((64 << 20)) ]; }
until_true "a volume of 128 MiB that holds some 20 takes less than 64" thin
note "the restored volume takes $(allocated) bytes"
kubectl delete clusterrolebinding "snapshot-metadata-client-$namespace" >/dev/null
leaves_nothing
