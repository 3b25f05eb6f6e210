# A claim of a snapshot that is read-only for many is read by two pods at once, and written by none.
claim data 128Mi
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
snapshot monday data
claim shared 128Mi access=ReadOnlyMany from=VolumeSnapshot/monday
pod first shared:/data readonly=true
pod second shared:/data readonly=true
ready first second
equal "$(checksum first /data)" "$before" "what the first pod reads"
equal "$(checksum second /data)" "$before" "what the second pod reads"
refused inside_pod first 'touch /data/new' || fail "a read-only volume could be written to"
leaves_nothing
