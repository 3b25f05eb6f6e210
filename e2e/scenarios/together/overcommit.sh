# No more is promised than the pool's ratio allows: the scheduler sees what is left, and a pod that would be too much waits and says why.
capacity() {
    kubectl -n $driver_namespace get csistoragecapacity -o json | jq -r '[.items[] | select(.storageClassName == "windlass-fast")
        | (.maximumVolumeSize // .capacity) | capture("^(?<n>[0-9]+)(?<u>[KMG]i)?$") | (.n | tonumber) * ({Ki: 1024, Mi: 1048576, Gi: 1073741824}[.u // ""] // 1)] | max'
}
until_true "there is a capacity object for the class" sh -c "[ $(capacity) -gt 0 ]"
left=$(capacity)
note "left of the pool: $left bytes"
# Twice 2 GiB is promised at most; what other scenarios hold of it is little.
[ "$left" -le $((4 << 30)) ] || fail "more is offered than the pool's ratio allows: $left"
# Volumes are thin: each of the first two fits what is free, and together they leave less of the promise than one takes.
size=$((left * 85 / 100 / 1048576))
claim first "${size}Mi" class=windlass-fast
claim second "${size}Mi" class=windlass-fast
run_pod one first:/first second:/second
fell() { [ "$(capacity)" -lt $((size << 20)) ]; }
until_true "the scheduler is told of what was promised" fell
claim third "${size}Mi" class=windlass-fast
pod two third:/data
k wait --for=condition=PodScheduled=false pod/two --timeout="${patience}s" >/dev/null
message=$(k get pod two -o json | jq -r '.status.conditions[] | select(.type == "PodScheduled") | .message')
grep -q 'did not have enough free storage' <<<"$message" || fail "the pod waits for another reason: $message"
# What is given back is offered again, and the pod that waited comes.
end_pods one
k delete pvc first --wait >/dev/null
ready two
leaves_nothing
