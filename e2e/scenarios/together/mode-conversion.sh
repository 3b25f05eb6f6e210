# A volume becomes raw blocks, and a file system again, by PersistentVolumes that are made anew for it; its files stay.
# recreate CLAIM MODE: the claim's volume under a new PersistentVolume and claim of that mode.
recreate() {
    local name=$1 mode=$2 volume
    volume=$(volume_of "$name")
    kubectl patch pv "$volume" --type=merge -p '{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}' >/dev/null
    kubectl get pv "$volume" -o json >"$scratch/volume.json"
    k delete pvc "$name" --wait >/dev/null
    kubectl delete pv "$volume" --wait >/dev/null
    # As Velero does it: another name, the same handle and affinity, the claim by name, no identity of the provisioner.
    jq --arg mode "$mode" --arg namespace "$namespace" --arg claim "$name" '{apiVersion, kind, metadata: {name: "\(.metadata.name)-\($mode | ascii_downcase)", annotations: {"pv.kubernetes.io/provisioned-by": .spec.csi.driver}},
        spec: (.spec | .volumeMode = $mode | .claimRef = {kind: "PersistentVolumeClaim", namespace: $namespace, name: $claim}
            | del(.csi.volumeAttributes["storage.kubernetes.io/csiProvisionerIdentity"])
            | if $mode == "Block" then del(.csi.fsType) else .csi.fsType = "ext4" end)}' "$scratch/volume.json" | kubectl apply -f - >/dev/null
    claim "$name" 128Mi mode="$mode" volume="$(jq -r .metadata.name "$scratch/volume.json")-${mode,,}"
    k wait --for=jsonpath='{.status.phase}'=Bound "pvc/$name" --timeout="${patience}s" >/dev/null
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
claim data 128Mi
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
end_pods writer
recreate data Block
run_pod raw data:/dev/disk
inside_pod raw 'dd if=/dev/disk bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1' | grep -q '53 ef' || fail "the raw blocks are not those of the ext4"
blocks=$(device_checksum raw /dev/disk)
end_pods raw
run_pod raw data:/dev/disk
equal "$(device_checksum raw /dev/disk)" "$blocks" "the blocks, once more"
end_pods raw
recreate data Filesystem
run_pod reader data:/data
equal "$(checksum reader /data)" "$before" "the files"
# The other way round: born as raw blocks, filled with a file system by its user.
claim disk 128Mi class=windlass-raw mode=Block
run_pod raw disk:/dev/disk
inside_pod raw 'dd if=/dev/urandom of=/dev/disk bs=1M count=128 2>/dev/null; sync'
end_pods raw
claim empty 128Mi
run_pod maker empty:/data
fill maker /data
made=$(checksum maker /data)
end_pods maker
snapshot of-empty empty
kubectl annotate volumesnapshotcontent "$(content_of of-empty)" snapshot.storage.kubernetes.io/allow-volume-mode-change=true >/dev/null
claim image 128Mi class=windlass-raw mode=Block from=VolumeSnapshot/of-empty
run_pod copier image:/dev/from disk:/dev/to
inside_pod copier 'dd if=/dev/from of=/dev/to bs=1M conv=fsync 2>/dev/null'
end_pods copier
recreate disk Filesystem
run_pod last disk:/data
equal "$(checksum last /data)" "$made" "the files that came as raw blocks"
k delete pvc data disk --wait=false >/dev/null
for volume in $(volumes_left); do kubectl patch pv "$volume" --type=merge -p '{"spec": {"persistentVolumeReclaimPolicy": "Delete"}}' >/dev/null; done
leaves_nothing
