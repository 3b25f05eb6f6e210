# A snapshot of a class with a repository is off the cluster when it is ready: its pool is lost, and claims from it have the same data; stock restic checks it and dumps it.
secret offsite
image=$run/node1/disk/windlass/lost.img
restore() { e2e/install-driver.sh >&2; }
trap restore EXIT
pools='{"name": "default", "nodes": ["node1"], "image": "/var/lib/windlass/default.img", "imageSize": "6Gi"},
    {"name": "fast", "nodes": ["node?"], "image": "/var/lib/windlass/fast.img", "imageSize": "2Gi", "overprovisionRatio": "2"}'
WINDLASS_POOLS_SERVED=3 e2e/install-driver.sh --set-json "pools=[$pools, {\"name\": \"lost\", \"image\": \"/var/lib/windlass/lost.img\", \"imageSize\": \"1Gi\"}]"
kubectl apply -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: lost}
provisioner: $driver
volumeBindingMode: WaitForFirstConsumer
parameters: {pool: lost, csi.storage.k8s.io/fstype: ext4}
END
claim data 128Mi class=lost
claim disk 64Mi class=lost mode=Block
run_pod writer data:/data disk:/dev/disk
fill writer /data
inside_pod writer 'dd if=/dev/urandom of=/dev/disk bs=1M count=64 2>/dev/null; sync'
files=$(checksum writer /data)
blocks=$(device_checksum writer /dev/disk)
before=$(exports_in offsite 2>/dev/null || echo 0)
request_snapshot of-data data windlass-offsite
soon_ready of-data
request_snapshot of-disk disk windlass-offsite
soon_ready of-disk
equal "$(exports_in offsite)" $((before + 2)) "the exports in the repository"
# By restic alone, which knows nothing of this program.
stock_restic offsite check --read-data >&2
exported=$(stock_restic offsite snapshots --json --tag "handle=$(handle_of of-disk)" | jq -r '.[0] | "\(.id) \(.paths[0])"')
path=$(stock_restic offsite ls --json "${exported% *}" | jq -r 'select(.struct_type == "node" and .name == "volume.img") | .path')
equal "$(stock_restic offsite dump "${exported% *}" "$path" | sha256sum | cut -c 1-64)" "$blocks" "the blocks that restic dumps"
no_secret_seen
# The pool is lost, with all that it had.
end_pods writer
restore
# No image of this node is of it any more. What a node that served it has left mounted is taken down as after a change of disks.
! inside 1 mountpoint -q /var/lib/windlass/lost.img.mount || inside 1 umount /var/lib/windlass/lost.img.mount
losetup --noheadings --output NAME --associated "$image" | xargs -r losetup --detach
rm "$image"
claim files 128Mi class=windlass-offsite from=VolumeSnapshot/of-data
claim larger 300Mi class=windlass-offsite from=VolumeSnapshot/of-data
claim blocks 64Mi class=windlass-offsite mode=Block from=VolumeSnapshot/of-disk
run_pod reader files:/files larger:/larger blocks:/dev/blocks
equal "$(checksum reader /files)" "$files" "the restored files"
equal "$(checksum reader /larger)" "$files" "the restored files of a larger volume"
equal "$(device_checksum reader /dev/blocks)" "$blocks" "the restored blocks"
# Nobody can say that volumes of a pool are gone which is not there: their objects go, kept. Of the exports nothing goes.
for name in data disk; do kubectl patch pv "$(volume_of "$name")" --type=merge -p '{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}' >/dev/null; done
lost=$(volume_of data)\ $(volume_of disk)
k delete pod reader --wait --timeout="${patience}s" >/dev/null
delete_retained of-data of-disk
k delete pvc data disk --wait >/dev/null
kubectl delete pv $lost --wait >/dev/null
kubectl delete storageclass lost >/dev/null
equal "$(exports_in offsite)" $((before + 2)) "the exports in the repository, when their snapshots were deleted to be kept"
trap - EXIT
leaves_nothing
