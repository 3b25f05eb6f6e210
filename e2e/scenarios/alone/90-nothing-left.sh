# At the end no volume, snapshot, mount, device or record of all of this is left, in the cluster, on the node or in the pools.
equal "$(kubectl get pv -o name)" '' "PersistentVolumes"
equal "$(kubectl get volumesnapshotcontent -o name)" '' "VolumeSnapshotContents"
records() { in_driver windlass "$1" list --endpoint unix:///csi/csi.sock --output json | jq ".$1s | length"; }
no_records() { [ "$(records volume) $(records snapshot)" = '0 0' ]; }
mounts() { inside 1 awk '$5 ~ "/kubelet/(pods|plugins)/.*(csi.windlass.dev|kubernetes.io~csi)" { print $5 }' /proc/self/mountinfo; }
# Loop devices upon the pools: those whose file lies in a file system that one of the pools' images carries. The machine has others too.
loops() {
    losetup --list --noheadings --output NAME,BACK-INO,BACK-MAJ:MIN | awk -v place="$(stat -c '%Hd:%Ld' "$run")" -v images="$(stat -c '%i' "$run"/node1/disk/windlass/*.img | xargs)" '
        BEGIN { for (i = split(images, inode, " "); i > 0; i--) image[inode[i]] = 1 }
        { name[NR] = $1; behind[NR] = $3; if ($3 == place && $2 in image) { sub("/dev/loop", "", $1); carrier["7:" $1] = 1 } }
        END { for (i in name) if (behind[i] in carrier) print name[i] }'
}
none() { [ -z "$("$1")" ]; }
# What looks for them does find them.
claim data 64Mi
run_pod user data:/data
! none mounts || fail "no mount is seen although a volume is in use"
! none loops || fail "no loop device is seen although a volume is in use"
leaves_nothing
until_true "no record is left in the pools" no_records
until_true "no mount is left" none mounts
until_true "no loop device is left" none loops
