# What is restored from a snapshot is what was written before it, whatever was written after.
claim data 128Mi
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
snapshot monday data
fill writer /data
[ "$(checksum writer /data)" != "$before" ] || fail "the source did not change"
claim again 128Mi from=VolumeSnapshot/monday
run_pod reader again:/data
equal "$(checksum reader /data)" "$before" "the restored files"
equal "$(k get volumesnapshot monday -o jsonpath='{.status.restoreSize}')" 128Mi "the size to restore"
# The names by which people look for a volume again are recorded in the pool.
in_driver windlass volume list --endpoint unix:///csi/csi.sock --output json | jq -e --arg claim "$namespace/data" 'any(.volumes[]; .pvc == $claim)' >/dev/null || fail "the pool does not know what the claim is called"
leaves_nothing
