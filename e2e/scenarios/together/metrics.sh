# The metrics of agent and node are as Prometheus wants them, say what has happened, and name no store.
before=$(metrics)
"$(tools_of prometheus)/promtool" check metrics <<<"$before" >&2
# value FAMILY LABEL...: the sum of the samples of a family that have these labels.
value() {
    local family=$1 text=$2 label
    shift 2
    text=$(grep -E "^$family(\{| )" <<<"$text" || true)
    for label in "$@"; do text=$(grep -F "$label" <<<"$text" || true); done
    awk '{ sum += $NF } END { printf "%d\n", sum }' <<<"$text"
}
equal "$(value windlass_node_up "$before")" 1 "windlass_node_up"
equal "$(value windlass_pool_up "$before" 'process="node"')" 2 "the pools that are up"
grep -q '^windlass_build_info{.*process="agent"' <<<"$before" || fail "the agent does not say what it is"
secret offsite
claim data 64Mi
run_pod writer data:/data
fill writer /data 2
snapshot counted data windlass-offsite
counts() {
    local now
    now=$(metrics)
    [ "$(value windlass_exports_total "$now" 'mode="full"')" -gt "$(value windlass_exports_total "$before" 'mode="full"')" ] &&
        [ "$(value windlass_call_duration_seconds_count "$now" /csi.v1.Controller/CreateSnapshot 'code="OK"')" -gt "$(value windlass_call_duration_seconds_count "$before" /csi.v1.Controller/CreateSnapshot 'code="OK"')" ] &&
        [ "$(value windlass_store_sent_bytes_total "$now")" -gt "$(value windlass_store_sent_bytes_total "$before")" ] &&
        grep -q "^windlass_claim_last_export_timestamp_seconds{.*namespace=\"$namespace\".*persistentvolumeclaim=\"data\"" <<<"$now"
}
until_true "the metrics count the export" counts
# The store's figures hold no name of it.
! metrics | grep -F -e "$store" -e "$store_user" || fail "the metrics name the store"
# Its class keeps it; here it is to go, from the repository too.
kubectl patch volumesnapshotcontent "$(content_of counted)" --type=merge -p '{"spec": {"deletionPolicy": "Delete"}}' >/dev/null
leaves_nothing
