# The agent, then the node is killed while a claim is being restored: the restore goes on with what is there, and the claim's blocks are equal.
secret first
# So slow that it can be killed.
slow() { inside 2 nft "add table inet slow; add chain inet slow out { type filter hook output priority 0; }; add rule inet slow out tcp sport 9000 limit rate over 16 mbytes/second burst 256 kbytes drop"; }
end_slow() { inside 2 nft 'add table inet slow; delete table inet slow'; }
trap 'end_slow; end_silence' EXIT
claim data 400Mi class=windlass-raw mode=Block
run_pod writer data:/dev/data
inside_pod writer 'dd if=/dev/urandom of=/dev/data bs=1M count=300 2>/dev/null; sync'
sum=$(device_checksum writer /dev/data)
snapshot gone data windlass-first
slow
claim again 400Mi class=windlass-first mode=Block from=VolumeSnapshot/gone
pod reader again:/dev/again
# How much of the volume is dealt with, in MiB: first the 100 that are zeros, then what is there already, then what has to be fetched.
restored() { in_driver windlass status --output json | jq -r '[.transfers[] | select(.kind == "restore") | .done_bytes / 1048576 | floor] | max // 0'; }
for step in agent:160 node:240; do
    container=${step%:*}
    far_enough() { [ "$(restored)" -ge "${step#*:}" ]; }
    until_true "${step#*:} MiB are restored" far_enough
    silence
    restarts=$(restarts_of "$container")
    inside 1 kill -KILL "$(process_of "$container")"
    end_silence
    restarted() { [ "$(restarts_of "$container")" -gt "$restarts" ]; }
    until_true "$container is started anew" restarted
    note "the $container was killed"
    driver_ready
done
end_slow
ready reader
equal "$(device_checksum reader /dev/again)" "$sum" "the restored blocks"
finished=$(events_of PersistentVolumeClaim again | jq -r '.[] | select(.reason == "RestoreFinished") | .message')
note "$finished"
kept=$(sed -n 's/.*, \([0-9]*\)\.[0-9] MiB kept of an earlier attempt.*/\1/p' <<<"$finished")
[ -n "$kept" ] && [ "$kept" -ge 100 ] || fail "the restore has begun from the beginning: $finished"
equal "$(in_driver windlass pool status --output json | jq '[.. | .kept_restore_count? // empty] | add')" 0 "the interrupted restores that are kept"
no_secret_seen
leaves_nothing
