# All objects of the cluster are lost, its disks are not: what `windlass pool manifests` prints brings every volume back to the claim it had, and every snapshot.
claim data 128Mi
claim disk 64Mi class=windlass-raw mode=Block
run_pod writer data:/data disk:/dev/disk
fill writer /data
inside_pod writer 'dd if=/dev/urandom of=/dev/disk bs=1M count=64 2>/dev/null; sync'
monday=$(checksum writer /data)
snapshot monday data
fill writer /data
files=$(checksum writer /data)
blocks=$(device_checksum writer /dev/disk)
end_pods writer
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The store of the API server, with all that it had, is thrown away; the programs that lived by it are started anew.
. e2e/cluster/components.sh
for name in kubelet1 kube-proxy1 kube-scheduler kube-controller-manager kube-apiserver etcd; do end 1 "$name" KILL; done
for name in kubelet2 kube-proxy2; do end 2 "$name" KILL; done
rm -rf "$run/node1/etcd"
e2e/cluster/up.sh >&2
[ "$(kubectl get pv,pvc -A -o name | wc -l)" = 0 ] || fail "the cluster remembers volumes"
e2e/install-driver.sh ${WINDLASS_IMAGE_TAG:+--set "image.tag=$WINDLASS_IMAGE_TAG"}
in_driver windlass pool manifests --endpoint unix:///csi/csi.sock --storage-class windlass --snapshot-class windlass-local >"$scratch/volumes.yaml"
kubectl create namespace "$namespace" >/dev/null
kubectl apply -f "$scratch/volumes.yaml" >/dev/null
for name in data disk; do
    mode=Filesystem
    [ $name = data ] || mode=Block
    claim $name "$(kubectl get pv -o json | jq -r --arg name $name --arg namespace "$namespace" '.items[] | select(.spec.claimRef.name == $name and .spec.claimRef.namespace == $namespace) | .spec.capacity.storage')" \
        class="$(kubectl get pv -o json | jq -r --arg name $name --arg namespace "$namespace" '.items[] | select(.spec.claimRef.name == $name and .spec.claimRef.namespace == $namespace) | .spec.storageClassName')" mode=$mode
done
run_pod reader data:/data disk:/dev/disk
equal "$(checksum reader /data)" "$files" "the files"
equal "$(device_checksum reader /dev/disk)" "$blocks" "the blocks"
snapshot_ready monday
claim again 128Mi from=VolumeSnapshot/monday
run_pod earlier again:/data
equal "$(checksum earlier /data)" "$monday" "the files of the snapshot"
# All of it is printed to be kept; here it is to go.
kubectl patch volumesnapshotcontent "$(content_of monday)" --type=merge -p '{"spec": {"deletionPolicy": "Delete"}}' >/dev/null
for volume in $(volumes_left); do kubectl patch pv "$volume" --type=merge -p '{"spec": {"persistentVolumeReclaimPolicy": "Delete"}}' >/dev/null; done
leaves_nothing
