# Raw blocks are restored byte for byte, and beside the volume they came from.
claim disk 64Mi class=windlass-raw mode=Block
run_pod writer disk:/dev/disk
inside_pod writer 'dd if=/dev/urandom of=/dev/disk bs=1M count=64 2>/dev/null; sync'
before=$(device_checksum writer /dev/disk)
snapshot monday disk
inside_pod writer 'dd if=/dev/zero of=/dev/disk bs=1M count=8 conv=fsync 2>/dev/null'
claim again 64Mi class=windlass-raw mode=Block from=VolumeSnapshot/monday
run_pod reader again:/dev/disk
equal "$(device_checksum reader /dev/disk)" "$before" "the restored blocks"
leaves_nothing
