# The chart is upgraded from that of the commit before while a volume is written to; it is removed and installed again, and volumes still work.
helm() { e2e/cluster/with-cluster helm "$@" --namespace $driver_namespace; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
key() { kubectl -n $driver_namespace get secret windlass-snapshot-metadata -o jsonpath='{.data.tls\.key}' | sha256sum; }
identity() { kubectl -n $driver_namespace get pod "$(driver_pod)" -o jsonpath='{.metadata.uid}'; }
values=(-f e2e/values.yaml)
[ -z "${WINDLASS_IMAGE_TAG-}" ] || values+=(--set "image.tag=$WINDLASS_IMAGE_TAG")
claim data 128Mi
pod busy data:/data command='i=0; while dd if=/dev/urandom of=/data/file bs=64k count=8 conv=fsync 2>/dev/null; do i=$((i + 1)); echo $i >/scratch/rounds; done; echo "I/O error"; exit 1'
ready busy
until_true "something is written" inside_pod busy '[ -s /scratch/rounds ]'
goes_on() {
    local before
    before=$(inside_pod busy 'cat /scratch/rounds')
    until_true "the writer goes on" inside_pod busy "[ \$(cat /scratch/rounds) -gt $before ]"
    equal "$(k get pod busy -o jsonpath='{.status.phase}')" Running "the writer"
}
# The chart of the commit before; where there is none yet, this one with another pod.
mkdir "$scratch/before"
if git rev-parse -q --verify HEAD~1:deploy/chart >/dev/null; then
    git archive HEAD~1:deploy/chart | tar -x -C "$scratch/before"
else
    cp -r deploy/chart/. "$scratch/before"
fi
# What was applied as plain objects becomes helm's.
helm upgrade --install windlass "$scratch/before" "${values[@]}" --take-ownership --force-conflicts --set podAnnotations.of=before >/dev/null
driver_ready
goes_on
first=$(key)
pod=$(identity)
helm upgrade windlass deploy/chart "${values[@]}" --force-conflicts --set podAnnotations.of=after >/dev/null
driver_ready
[ "$(identity)" != "$pod" ] || fail "the pod was not replaced"
equal "$(key)" "$first" "the key for changed blocks after an upgrade"
goes_on
snapshot monday data
claim again 128Mi from=VolumeSnapshot/monday
run_pod reader again:/data
before=$(checksum reader /data)
# Removed: pods that run go on. Installed again: everything is as it was.
helm uninstall windlass --wait >/dev/null
goes_on
refused kubectl get csidriver $driver >/dev/null 2>&1 || fail "the driver is still known"
helm install windlass deploy/chart "${values[@]}" >/dev/null
driver_ready
goes_on
equal "$(checksum reader /data)" "$before" "the files in a pod that ran meanwhile"
end_pods reader
run_pod reader again:/data
equal "$(checksum reader /data)" "$before" "the files in a pod that came after"
claim later 128Mi from=VolumeSnapshot/monday
run_pod later later:/data
equal "$(checksum later /data)" "$before" "a restore of a snapshot of before"
leaves_nothing
