# A file system grows while it is written to and has snapshots, and these are restored as they were.
claim data 400Mi class=windlass-xfs
run_pod writer data:/data
fill writer /data
before=$(checksum writer /data)
snapshot monday data
pod busy data:/data command='i=0; while dd if=/dev/urandom of=/data/busy bs=64k count=16 conv=fsync 2>/dev/null; do i=$((i + 1)); echo $i >/scratch/rounds; done; echo "I/O error"; exit 1'
ready busy
until_true "something is written" inside_pod busy '[ -s /scratch/rounds ]'
k patch pvc data --type=merge -p '{"spec": {"resources": {"requests": {"storage": "800Mi"}}}}' >/dev/null
k wait --for=jsonpath='{.status.capacity.storage}'=800Mi pvc/data --timeout="${patience}s" >/dev/null
size=$(inside_pod writer "df -k /data | tail -n 1 | awk '{ print \$(NF - 4) }'")
[ "$size" -gt 700000 ] || fail "the file system has $size KiB of 800 MiB"
inside_pod writer 'dd if=/dev/zero of=/data/large bs=1M count=450 conv=fsync 2>/dev/null; rm /data/large; sync'
rounds=$(inside_pod busy 'cat /scratch/rounds')
until_true "the writer goes on" inside_pod busy "[ \$(cat /scratch/rounds) -gt $rounds ]"
equal "$(k get pod busy -o jsonpath='{.status.phase}')" Running "the writer"
claim again 400Mi class=windlass-xfs from=VolumeSnapshot/monday
run_pod reader again:/data
equal "$(checksum reader /data)" "$before" "the files of before the growth"
# The kernel lets ext4 grow while it is mounted only with CAP_SYS_RESOURCE (24), which a privileged pod has unless the machine itself lacks it.
abilities=$(inside 1 awk '$1 == "CapEff:" { print $2 }' "/proc/$(process_of node)/status")
if [ $((0x$abilities >> 24 & 1)) = 1 ]; then
    claim other 128Mi
    run_pod user other:/data
    fill user /data
    before=$(checksum user /data)
    k patch pvc other --type=merge -p '{"spec": {"resources": {"requests": {"storage": "256Mi"}}}}' >/dev/null
    k wait --for=jsonpath='{.status.capacity.storage}'=256Mi pvc/other --timeout="${patience}s" >/dev/null
    equal "$(checksum user /data)" "$before" "the files on ext4 after it grew"
else
    not_checked "growth of a mounted ext4: this machine has no CAP_SYS_RESOURCE"
fi
leaves_nothing
