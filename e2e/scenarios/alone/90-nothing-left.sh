# At the end no volume, snapshot, mount, device or record of all of this is left, in the cluster, on the node or in the pools.
equal "$(kubectl get pv -o name)" '' "PersistentVolumes"
equal "$(kubectl get volumesnapshotcontent -o name)" '' "VolumeSnapshotContents"
records() { in_driver windlass "$1" list --endpoint unix:///csi/csi.sock --output json | jq ".$1s | length"; }
no_records() { [ "$(records volume) $(records snapshot)" = '0 0' ]; }
until_true "no record is left in the pools" no_records
mounts() { inside 1 awk '$5 ~ "/kubelet/(pods|plugins)/.*(csi.windlass.dev|kubernetes.io~csi)" { print $5 }' /proc/self/mountinfo; }
no_mounts() { [ -z "$(mounts)" ]; }
until_true "no mount is left" no_mounts
# The only loop devices on files of the pools are those that carry the pools.
loops() { inside 1 losetup --list --noheadings --raw --output NAME,BACK-FILE | awk '$2 ~ "^/var/lib/windlass/"  && $2 !~ "^/var/lib/windlass/[a-z]*\\.img$"'; }
no_loops() { [ -z "$(loops)" ]; }
until_true "no loop device is left" no_loops
kubectl delete namespace "$namespace" --wait=false >/dev/null
