# A clone is equal to its source, and neither sees what is written to the other.
claim data 128Mi
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
claim copy 128Mi from=PersistentVolumeClaim/data
run_pod other copy:/data
equal "$(checksum other /data)" "$before" "the clone's files"
fill writer /data
inside_pod other 'echo other >/data/other; sync'
inside_pod writer '[ ! -e /data/other ]'
inside_pod other 'rm /data/other; sync'
equal "$(checksum other /data)" "$before" "the clone's files after its source was written to"
leaves_nothing
