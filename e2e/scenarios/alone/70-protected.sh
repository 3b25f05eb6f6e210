# A claim of a protected class whose store is silent waits, and its events say for what: it is not empty because nobody can see what it had. Then it begins with its newest export.
secret protected
trap 'end_silence || true' EXIT
claim data 64Mi class=windlass-protected
run_pod writer data:/data
inside_pod writer '[ -z "$(ls /data | grep -v lost+found)" ]' || fail "a claim without an export does not begin empty"
has_event PersistentVolumeClaim data RestoreFinished "begins empty" || fail "no event says that there was no export: $(events_of PersistentVolumeClaim data)"
fill writer /data
sum=$(checksum writer /data)
# One that somebody wants right now, by command; it is the claim's newest like those of the schedule, and outlives its snapshot.
snapshot newest data
in_agent protected windlass export "$(handle_of newest)" >&2
exports_of() { stock_restic protected snapshots --json --tag "pvc=$namespace/data" | jq length; }
equal "$(exports_of)" 1 "the exports of the claim"
inside_pod writer 'echo later >/data/later; sync'
end_pods writer
k delete volumesnapshot newest --wait >/dev/null
k delete pvc data --wait >/dev/null
until_true "the volume is gone" nothing_left
silence
claim data 64Mi class=windlass-protected
pod reader data:/data
until_true "an event says that the restore has begun" has_event PersistentVolumeClaim data RestoreStarted
waits() { has_event PersistentVolumeClaim data RestoreWaiting || has_event PersistentVolumeClaim data RestoreFailed; }
until_true "an event says that the store does not answer" waits
note "$(events_of PersistentVolumeClaim data | jq -r '.[] | "\(.type) \(.reason): \(.message)"')"
equal "$(k get pvc data -o jsonpath='{.status.phase}')" Pending "the claim whose repository cannot be seen"
end_silence
ready reader
equal "$(checksum reader /data)" "$sum" "the files"
until_true "an event says what was restored" has_event PersistentVolumeClaim data RestoreFinished "is restored and verified from repository snapshot"
no_secret_seen
leaves_nothing
equal "$(exports_of)" 1 "the exports of the claim after its volume was deleted"
trap - EXIT
