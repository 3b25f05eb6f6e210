# Events of claim, VolumeSnapshot and content tell of its export and of the restore from it, a failure that repeats is one event that counts, and the status says what is wrong and what to do.
secret told
claim data 64Mi class=windlass-told
run_pod writer data:/data
fill writer /data 2
sum=$(checksum writer /data)
request_snapshot nightly data windlass-told
snapshot_ready nightly
exported="are in the repository as snapshot $(stock_restic told snapshots --json --latest 1 | jq -r '.[-1].short_id'): full ("
for object in "VolumeSnapshot nightly" "VolumeSnapshotContent $(content_of nightly)" "PersistentVolumeClaim data"; do
    for reason in ExportStarted ExportFinished; do until_true "$object has the event $reason" has_event $object $reason; done
    has_event $object ExportFinished "$exported" || fail "no event of $object says: $exported"
done
# As people look at it.
for object in "-n $namespace volumesnapshot/nightly" "volumesnapshotcontent/$(content_of nightly)" "-n $namespace pvc/data"; do
    kubectl describe $object | grep -qE "Normal +ExportFinished .* $driver .*$(printf '%s' "$exported" | sed 's/(/\\(/')" || fail "kubectl describe $object does not show it"
done
claim again 64Mi class=windlass-told from=VolumeSnapshot/nightly
run_pod reader again:/data
equal "$(checksum reader /data)" "$sum" "the restored files"
for reason in RestoreStarted RestoreFinished; do until_true "the claim has the event $reason" has_event PersistentVolumeClaim again $reason; done
volume_in_status() { in_driver windlass status --output json | jq -e --arg claim "$namespace/data" 'any(.volumes[]; .pvc == $claim and .last_export != null)'; }
until_true "the status tells of the export" volume_in_status
# The password is another one.
secret told "RESTIC_PASSWORD=another-$canary"
request_snapshot refused data windlass-told
counted() { events_of VolumeSnapshotContent "$(content_of refused)" | jq -e '[.[] | select(.reason == "ExportFailed" and .type == "Warning")] | length == 1 and .[0].count > 1'; }
until_true "the failure is one event, which counts" counted
found() { in_driver windlass status --output json | jq -e 'any(.findings[]; (.what + .advice | contains("RESTIC_PASSWORD")))'; }
until_true "the status says what is wrong" found
in_driver windlass status >&2
secret told
snapshot_ready refused
has_event VolumeSnapshot refused ExportFinished ": incremental, " || fail "no event says that the second export was incremental"
not_found() { ! found; }
until_true "the status says nothing of it any more" not_found
# What the agent's account may do, and what it may not.
may() { kubectl auth can-i --as "system:serviceaccount:$driver_namespace:windlass-agent" "$@" >/dev/null; }
may create events -n "$namespace" || fail "the agent's account may not write events"
for right in "list pvc -n $namespace" "get secrets -n $namespace" "get secret/told -n backups" "create pv" "get pods -n $namespace" "delete events -n $namespace"; do
    ! may $right || fail "the agent's account may $right"
done
leaves_nothing
equal "$(exports_in told)" 0 "the exports after their snapshots were deleted"
