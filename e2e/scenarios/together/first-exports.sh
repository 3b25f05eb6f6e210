# Ten first exports at once make one repository, of which each is restored, and which forgets each when its snapshot is deleted.
secret first
numbers=$(seq 10)
disks=()
for i in $numbers; do
    claim "disk$i" 8Mi class=windlass-raw mode=Block
    disks+=("disk$i:/dev/disk$i")
done
run_pod writer "${disks[@]}"
inside_pod writer 'for i in 1 2 3 4 5 6 7 8 9 10; do dd if=/dev/urandom of=/dev/disk$i bs=1M count=8 2>/dev/null; done; sync'
for i in $numbers; do request_snapshot "first$i" "disk$i" windlass-first; done
for i in $numbers; do snapshot_ready "first$i"; done
equal "$(exports_in first)" 10 "the exports in the repository"
equal "$(stock_restic first list keys | wc -l)" 1 "the keys of the repository"
stock_restic first check --read-data >&2
# Nothing of them is in the pool (`localCopy: drop`): the restores are from the repository.
for i in 3 7; do claim "again$i" 8Mi class=windlass-first mode=Block from="VolumeSnapshot/first$i"; done
run_pod reader again3:/dev/again3 again7:/dev/again7
for i in 3 7; do equal "$(device_checksum reader "/dev/again$i")" "$(device_checksum writer "/dev/disk$i")" "the blocks of disk$i"; done
leaves_nothing
equal "$(exports_in first)" 0 "the exports after their snapshots were deleted"
