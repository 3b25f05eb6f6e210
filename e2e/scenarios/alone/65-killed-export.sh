# The agent is killed ten times while it exports: the snapshot gets ready by itself, is whole, is in the repository once, and no attempt begins from the beginning.
secret killed
# How many objects the store has; it makes directories, and renames them, meanwhile.
stored() { { find "$run/node2/store/exports/killed/data" -name xl.meta 2>/dev/null || true; } | wc -l; }
trap end_silence EXIT
claim data 600Mi class=windlass-xfs
run_pod writer data:/data
inside_pod writer 'dd if=/dev/urandom of=/data/file bs=1M count=448 2>/dev/null; sync'
sum=$(checksum writer /data)
request_snapshot killed data windlass-killed
for round in $(seq 10); do
    seen=$(stored)
    more() { [ "$(stored)" -gt $((seen + 2)) ]; }
    until_true "more is stored" more
    # The export cannot end before the agent has.
    silence
    [ "$(k get volumesnapshot killed -o jsonpath='{.status.readyToUse}')" != true ] || fail "the export was done before the agent was killed"
    restarts=$(restarts_of agent)
    inside 1 kill -KILL "$(process_of agent)"
    end_silence
    restarted() { [ "$(restarts_of agent)" -gt "$restarts" ]; }
    until_true "the agent is started anew" restarted
    note "killed when $(stored) packs were stored"
done
driver_ready
soon_ready killed
equal "$(exports_in killed)" 1 "the exports in the repository"
equal "$(stock_restic killed list locks | wc -l)" 0 "the locks that are left"
stock_restic killed check --read-data >&2
# Of what was stored before a kill the last attempt has read nothing again, but for the pack or two whose index file was not stored yet.
finished=$(events_of VolumeSnapshot killed | jq -r '.[] | select(.reason == "ExportFinished") | .message')
note "$finished"
again=$(sed -n 's/.*, \([0-9]*\)\.[0-9] MiB read, .*/\1/p' <<<"$finished")
[ -n "$again" ] && [ "$again" -lt $((448 - 10 * 16)) ] || fail "the last attempt has begun from the beginning: $finished"
kilobytes=$(du -sk "$run/node2/store/exports/killed/data" | cut -f 1)
note "for 448 MiB there are $((kilobytes / 1024)) MiB in the store"
[ "$kilobytes" -lt $(((448 + 10 * 2 * 16) * 1024)) ] || fail "attempts have stored again what was stored: $((kilobytes / 1024)) MiB"
equal "$(checksum writer /data)" "$sum" "the files of the source"
no_secret_seen
leaves_nothing
equal "$(exports_in killed)" 0 "the exports after the snapshot was deleted"
