# A claim of a protected class is exported by its schedule alone, and begins with its newest export when it is made anew; as long as its volume exists nothing touches it.
# The schedule is one of five minutes.
patience=360
secret protected
claim ledger 64Mi class=windlass-often
database writer ledger
exported_by_itself() { has_event PersistentVolumeClaim ledger ExportFinished "are in the repository as snapshot"; }
until_true "the schedule has exported the claim" exported_by_itself
equal "$(k get volumesnapshot -o name | wc -l)" 0 "the VolumeSnapshots"
# The name of a claim is the tag of its exports.
taken() { stock_restic protected snapshots --json --latest 1 --tag "pvc=$namespace/ledger" | jq -r '.[-1].time | sub("\\..*"; "Z") | fromdate'; }
# The same claim in another pod: its data, and not those of the export.
rows=$(acknowledged writer)
end_pods writer
database writer ledger
[ "$(acknowledged writer)" -gt "$rows" ] || fail "the volume that exists has lost transfers"
sound_database writer
protected_in_status() { in_driver windlass status --output json | jq -e --arg claim "$namespace/ledger" 'any(.volumes[]; .pvc == $claim and .last_export != null)'; }
until_true "the status tells of the export" protected_in_status
end_pods writer
cut=$(taken)
k delete pvc ledger --wait >/dev/null
until_true "the volume is gone" nothing_left
# By the same manifests, as a pipeline would.
claim ledger 64Mi class=windlass-often
run_pod reader ledger:/data image=localhost/sqlite:3
sound_database reader
last=$(ask_database reader 'select max(at) from transfer')
note "cut at $cut, the last transfer in it at $last"
[ "$last" -ge $((cut - 10)) ] && [ "$last" -le "$cut" ] || fail "what was restored is not of $cut: its last transfer is of $last"
has_event PersistentVolumeClaim ledger RestoreFinished "$(date -u -d "@$cut" +%Y-%m-%dT%H:%M)" || fail "no event says what was restored, and of when: $(events_of PersistentVolumeClaim ledger)"
leaves_nothing
