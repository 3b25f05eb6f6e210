# What changed between two snapshots, by the stock sidecar and upstream's client, is exactly what differs, also when the base is deleted.
backup_account
claim disk 64Mi class=windlass-raw mode=Block
run_pod writer disk:/dev/disk
write() { inside_pod writer "dd if=/dev/urandom of=/dev/disk bs=64k seek=$1 count=$2 conv=notrunc,fsync 2>/dev/null"; }
write 0 64
write 512 32
snapshot base disk
write 16 4
write 700 2
inside_pod writer 'dd if=/dev/zero of=/dev/disk bs=64k seek=512 count=8 conv=notrunc,fsync 2>/dev/null'
snapshot target disk
for name in base target; do claim "of-$name" 64Mi class=windlass-raw mode=Block from=VolumeSnapshot/$name; done
claim made 64Mi class=windlass-raw mode=Block
run_pod reader of-base:/dev/base of-target:/dev/target made:/dev/made account=backup
give_program reader
# What is allocated, put into an empty volume, is the snapshot.
allocated=$(ask reader -snapshot base -from /dev/base -to /dev/made)
inside_pod reader 'cmp /dev/base /dev/made'
read -r ranges bytes size < <(totals <<<"$allocated")
equal "$size" $((64 << 20)) "the size of the volume"
[ "$bytes" -ge $((96 << 16)) ] && [ "$bytes" -lt $((48 << 20)) ] || fail "$bytes bytes are allocated; 6 MiB were written"
# What changed, put upon the base, is the target: nothing is missing. And it is little: nothing is made up.
changed=$(ask reader -snapshot target -base base -from /dev/target -to /dev/made)
inside_pod reader 'cmp /dev/target /dev/made'
read -r ranges bytes size < <(totals <<<"$changed")
[ "$ranges" -ge 3 ] && [ "$bytes" -ge $((14 << 16)) ] && [ "$bytes" -le $((4 << 20)) ] || fail "$bytes bytes in $ranges ranges changed; 896 KiB were written in three places"
# In small messages, and from the middle on.
equal "$(ask reader -snapshot target -base base -max-results 1)" "$changed" "the answer in messages of one range"
tail=$(ask reader -snapshot target -base base -start $((512 << 16)))
grep -qxF "$(grep -v end <<<"$changed" | tail -n 1)" <<<"$tail" || fail "from the middle on the last range is missing: $tail"
! grep -q '^0 ' <<<"$tail" || fail "from the middle on there is the beginning"
# The base is deleted, and everything that was made of it.
handle=$(handle_of base)
end_pods reader
k delete pvc of-base of-target made --wait >/dev/null
content=$(content_of base)
k delete volumesnapshot base --wait >/dev/null
until_true "the base is gone" refused kubectl get volumesnapshotcontent "$content"
pod asker command='trap "exit 0" TERM; sleep 100000 & wait' account=backup
ready asker
give_program asker
equal "$(ask asker -snapshot target -base-handle "$handle")" "$changed" "the answer with a deleted base"
# One that never was is no base, and is told apart from "nothing changed".
refused ask asker -snapshot target -base-handle "${handle%??}aa" >/dev/null 2>&1 || fail "a base that never was had an answer"
# Who may not read the snapshot gets nothing.
kubectl delete clusterrolebinding "snapshot-metadata-client-$namespace" >/dev/null
refused ask asker -snapshot target -base-handle "$handle" >/dev/null 2>&1 || fail "an account without rights had an answer"
leaves_nothing
