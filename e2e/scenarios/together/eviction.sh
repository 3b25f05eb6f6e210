# The driver's pod is not evicted from under the pods that use its volumes.
pod=$(driver_pod)
answer=$(printf '{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "%s", "namespace": "%s"}}' "$pod" $driver_namespace |
    kubectl create --raw "/api/v1/namespaces/$driver_namespace/pods/$pod/eviction" -f - 2>&1) && fail "it was evicted"
grep -q 'disruption budget' <<<"$answer" || fail "the API server refused for another reason: $answer"
equal "$(driver_pod)" "$pod" "the driver's pod"
leaves_nothing
