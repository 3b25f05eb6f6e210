# Kubelet, node, agent and each sidecar are killed while volumes are written to and made: no I/O error, and every request ends.
claim data 400Mi class=windlass-xfs
pod busy data:/data command='i=0; while dd if=/dev/urandom of=/data/file$((i % 8)) bs=256k count=8 conv=fsync 2>/dev/null && sha256sum /data/file* >/scratch/sums && sha256sum -c /scratch/sums >/dev/null; do i=$((i + 1)); echo $i >/scratch/rounds; done; echo "I/O error"; exit 1'
ready busy
until_true "something is written" inside_pod busy '[ -s /scratch/rounds ]'
rounds() { inside_pod busy 'cat /scratch/rounds'; }
goes_on() {
    equal "$(k get pod busy -o jsonpath='{.status.phase}')" Running "the writer after $1 was killed"
    local before
    before=$(rounds)
    until_true "the writer goes on after $1 was killed" inside_pod busy "[ \$(cat /scratch/rounds) -gt $before ]"
}
# request NAME: begun, not waited for; ended NAME: done.
request() {
    printf 'apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: %s}\nspec: {volumeSnapshotClassName: windlass-local, source: {persistentVolumeClaimName: data}}\n' "$1" | apply
    claim "$1" 500Mi class=windlass-xfs from="VolumeSnapshot/$1"
    pod "$1" "$1:/data"
}
ended() {
    snapshot_ready "$1"
    ready "$1"
    inside_pod "$1" 'ls /data/file0 >/dev/null'
    k patch pvc "$1" --type=merge -p '{"spec": {"resources": {"requests": {"storage": "600Mi"}}}}' >/dev/null
}
for container in csi-provisioner csi-snapshotter csi-resizer csi-snapshot-metadata agent node; do
    name=during-$container-$RANDOM
    restarts=$(restarts_of "$container")
    process=$(process_of "$container")
    [ -n "$process" ] || fail "no process of $container"
    request "$name"
    inside 1 kill -KILL "$process"
    restarted() { [ "$(restarts_of "$container")" -gt "$restarts" ]; }
    until_true "$container is started anew" restarted
    ended "$name"
    k wait --for=jsonpath='{.status.capacity.storage}'=600Mi "pvc/$name" --timeout="${patience}s" >/dev/null
    goes_on "$container"
    k delete "pod/$name" "pvc/$name" "volumesnapshot/$name" --wait --timeout="${patience}s" >/dev/null
    note "$container was killed, and everything ended"
done
request during-kubelet
e2e/cluster/kubelet kill 1
e2e/cluster/kubelet start 1
ended during-kubelet
goes_on kubelet
driver_ready
leaves_nothing
