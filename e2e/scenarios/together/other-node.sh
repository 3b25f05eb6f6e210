# A pod that may run only where no driver is waits, says so, and nothing is made for it.
claim data 64Mi
pod elsewhere data:/data node=node2
k wait --for=condition=PodScheduled=false pod/elsewhere --timeout="${patience}s" >/dev/null
equal "$(k get pvc data -o jsonpath='{.status.phase}')" Pending "the claim"
message=$(k get pod elsewhere -o json | jq -r '.status.conditions[] | select(.type == "PodScheduled") | .message')
grep -q 'did not have enough free storage' <<<"$message" || fail "the pod waits for another reason: $message"
# One that was made before stays where its pool is.
claim made 64Mi
run_pod maker made:/data
end_pods maker
pod mover made:/data node=node2
k wait --for=condition=PodScheduled=false pod/mover --timeout="${patience}s" >/dev/null
message=$(k get pod mover -o json | jq -r '.status.conditions[] | select(.type == "PodScheduled") | .message')
grep -Eq "didn't match PersistentVolume's node affinity|volume node affinity conflict" <<<"$message" || fail "the pod waits for another reason: $message"
leaves_nothing
