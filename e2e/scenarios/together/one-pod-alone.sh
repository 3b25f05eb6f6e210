# A claim for one pod alone (ReadWriteOncePod) is refused to a second pod until the first has ended.
claim data 64Mi access=ReadWriteOncePod
run_pod first data:/data
inside_pod first 'echo first >/data/file; sync'
pod second data:/data
k wait --for=condition=PodScheduled=false pod/second --timeout="${patience}s" >/dev/null
message=$(k get pod second -o json | jq -r '.status.conditions[] | select(.type == "PodScheduled") | .message')
grep -q ReadWriteOncePod <<<"$message" || fail "the second pod waits for another reason: $message"
inside_pod first 'echo still >/data/file; sync'
end_pods first
ready second
equal "$(inside_pod second 'cat /data/file')" still "what the second pod reads"
leaves_nothing
