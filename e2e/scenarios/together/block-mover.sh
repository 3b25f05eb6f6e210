# Velero's block mover, object by object: a full backup, an incremental one whose base is deleted, a restore as raw blocks, and its claim as a file system.
#
# The sequence is a Go test, by client-go and upstream's iterator: e2e/tools/snapshot-metadata/block-mover. What the volume takes is asked here.
output=$(nsenter -t "$(node_pid 1)" -n -- "$(tool block-mover.test)" -test.v -test.timeout "$((patience * 2))s" \
    -namespace "$namespace" -image "$busybox" -program "$(tool changed-blocks)" -kubeconfig "$KUBECONFIG" -patience "${patience}s") || {
    printf '%s\n' "$output"
    fail "the sequence of the block mover did not come to its end"
}
volume=$(sed -n 's/^restored volume //p' <<<"$output")
[ -n "$volume" ] || fail "the test restored no volume: $output"
# The mover wrote every block of the volume, and most of them are zeros: these are given back to the pool.
allocated() { in_driver windlass volume list --endpoint unix:///csi/csi.sock --output json | jq --arg name "$volume" '.volumes[] | select(.name == $name) | .allocated_bytes'; }
thin() { [ "$(allocated)" -lt $((64 << 20)) ]; }
until_true "a volume of 128 MiB that holds some 20 takes less than 64" thin
note "the restored volume takes $(allocated) bytes"
leaves_nothing
