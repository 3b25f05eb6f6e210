# Cluster and disks are lost, repositories and their keys are not: by the steps of docs/repository.md pods in an empty cluster read the data of the newest exports, and the database of a protected claim begins with its newest by its manifests alone.
secret offsite
secret protected
claim ledger 64Mi class=windlass-protected
database bank ledger
claim data 128Mi
claim disk 64Mi class=windlass-raw mode=Block
run_pod writer data:/data disk:/dev/disk
fill writer /data
inside_pod writer 'dd if=/dev/urandom of=/dev/disk bs=1M count=64 2>/dev/null; sync'
snapshot monday data windlass-offsite
snapshot of-disk disk windlass-offsite
fill writer /data
files=$(checksum writer /data)
blocks=$(device_checksum writer /dev/disk)
snapshot tuesday data windlass-offsite
before=$(exports_in offsite)
# While it writes.
rows=$(acknowledged bank)
snapshot of-ledger ledger windlass-protected
sound_database bank
no_secret_seen
# Machines that have nothing but their programs and images: a new cluster.
e2e/cluster/down.sh
rm -rf "$run"/node1/etcd "$run"/node*/disk/{kubelet,windlass,cni,pods-log,containers-log}
e2e/cluster/up.sh >&2
e2e/store.sh
[ "$(kubectl get pv,pvc,volumesnapshotclass -A -o name | wc -l)" = 0 ] || fail "the cluster remembers something"
[ -z "$(ls "$run/node1/disk/windlass")" ] || fail "the node has a pool"
kubectl create namespace backups >/dev/null
for name in offsite protected; do kubectl -n backups create secret generic $name --from-env-file=<(environment $name) >/dev/null; done
e2e/install-driver.sh ${WINDLASS_IMAGE_TAG:+--set "image.tag=$WINDLASS_IMAGE_TAG"}
in_agent offsite windlass repository manifests --snapshot-class windlass-offsite --newest >"$run/scenarios/snapshots.yaml"
kubectl create namespace "$namespace" >/dev/null
# Whatever other namespaces exported is not of this scenario.
e2e/cluster/with-cluster kubectl apply --dry-run=client -o json -f "$run/scenarios/snapshots.yaml" |
    jq --arg namespace "$namespace" '.items |= map(select((.metadata.namespace // .spec.volumeSnapshotRef.namespace) == $namespace))' | kubectl apply -f - >/dev/null
equal "$(k get volumesnapshot -o name | sort | xargs)" "volumesnapshot.snapshot.storage.k8s.io/of-disk volumesnapshot.snapshot.storage.k8s.io/tuesday" "what there is to be restored"
for name in of-disk tuesday; do snapshot_ready $name; done
equal "$(k get volumesnapshot tuesday -o jsonpath='{.status.restoreSize}')" 128Mi "the size to restore"
claim data 128Mi class=windlass-offsite from=VolumeSnapshot/tuesday
claim disk 64Mi class=windlass-offsite mode=Block from=VolumeSnapshot/of-disk
run_pod reader data:/data disk:/dev/disk
equal "$(checksum reader /data)" "$files" "the files"
equal "$(device_checksum reader /dev/disk)" "$blocks" "the blocks"
claim ledger 64Mi class=windlass-protected
run_pod bank ledger:/data image=localhost/sqlite:3
sound_database bank
transfers=$(ask_database bank 'select count(*) from transfer')
[ "$transfers" -ge "$rows" ] || fail "of $rows transfers that were acknowledged before the cut the database has $transfers"
note "the database has $transfers transfers; before the cut were $rows"
has_event PersistentVolumeClaim ledger RestoreFinished "is restored and verified from repository snapshot" || fail "no event says what was restored"
# Who only tried a recovery deletes all of it, and no export goes.
delete_retained of-disk tuesday
leaves_nothing
equal "$(exports_in offsite)" "$before" "the exports after that"
no_records() { [ "$(in_driver windlass volume list --output json | jq '.volumes | length') $(in_driver windlass snapshot list --output json | jq '.snapshots | length')" = '0 0' ]; }
until_true "no record is left in the new pools" no_records
