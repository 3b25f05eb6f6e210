# The agent is killed twice while it exports: the snapshot gets ready by itself, is whole, and is in the repository once.
secret killed
# How many objects the store has; it makes directories, and renames them, meanwhile.
stored() { { find "$run/node2/store/exports/killed/data" -name xl.meta 2>/dev/null || true; } | wc -l; }
# Whoever asks the store gets no answer, and whoever waits for one goes on waiting.
silence() { inside 2 nft "add table inet silence; add chain inet silence in { type filter hook input priority 0; }; add rule inet silence in tcp dport 9000 drop"; }
end_silence() { inside 2 nft 'add table inet silence; delete table inet silence'; }
trap end_silence EXIT
claim data 400Mi class=windlass-xfs
run_pod writer data:/data
inside_pod writer 'dd if=/dev/urandom of=/data/file bs=1M count=160 2>/dev/null; sync'
sum=$(checksum writer /data)
request_snapshot killed data windlass-killed
for round in 1 2; do
    seen=$(stored)
    more() { [ "$(stored)" -gt $((seen + 1)) ]; }
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
kilobytes=$(du -sk "$run/node2/store/exports/killed/data" | cut -f 1)
note "for 160 MiB there are $((kilobytes / 1024)) MiB in the store"
[ "$kilobytes" -lt $((320 * 1024)) ] || fail "each attempt has stored everything: $((kilobytes / 1024)) MiB"
equal "$(checksum writer /data)" "$sum" "the files of the source"
no_secret_seen
leaves_nothing
equal "$(exports_in killed)" 0 "the exports after the snapshot was deleted"
