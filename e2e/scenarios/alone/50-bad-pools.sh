# A pool that cannot be served says why in the pod's events or its log, nothing is written to what it names, and other pools are served.
# A file with somebody's file system in it, where the values say that an image is to be. (With a disk it is the same, but this needs device-mapper.)
image=$run/node1/disk/windlass/foreign.img
truncate -s 1G "$image"
mkfs.ext4 -q -F "$image"
before=$(sha256sum <"$image")
restore() {
    e2e/install-driver.sh >&2
    rm -f "$image"
}
trap restore EXIT
default='{"name": "default", "nodes": ["node1"], "image": "/var/lib/windlass/default.img", "imageSize": "6Gi"}'
foreign='{"name": "foreign", "image": "/var/lib/windlass/foreign.img", "imageSize": "1Gi"}'
class='{"name": "windlass", "pool": "default", "fsType": "ext4"}'
install() { e2e/install-driver.sh --set-json "pools=[$1]" --set-json "storageClasses=[$2]"; }
elsewhere='{"name": "elsewhere", "nodes": ["elsewhere-*"], "image": "/var/lib/windlass/elsewhere.img", "imageSize": "1Gi"}'
# Beside a pool that works: that is served, and the log of the init container says what is wrong with the other. One of another node is not made.
WINDLASS_POOLS_SERVED=1 install "$default, $foreign, $elsewhere" "$class"
[ ! -e "$run/node1/disk/windlass/elsewhere.img" ] || fail "a pool of another node was made"
log=$(kubectl -n $driver_namespace logs "$(driver_pod)" -c pools)
grep -q 'foreign.*ext4' <<<"$log" || fail "the init container does not say what is there: $log"
claim data 64Mi
run_pod user data:/data
fill user /data 2
end_pods user
k delete pvc data --wait >/dev/null
until_true "its volume is gone" nothing_left
equal "$(sha256sum <"$image")" "$before" "the file with a file system"
# Alone: the pod is not ready, and its events say which pool is not open.
kubectl -n $driver_namespace delete events --all >/dev/null
WINDLASS_PATIENCE=5 install "$foreign" '' >/dev/null 2>&1 && fail "a node without any pool that works is ready"
said() { kubectl -n $driver_namespace get events -o json | jq -r '.items[] | select(.reason == "Unhealthy") | .message' | grep -F foreign.img; }
until_true "the pod's events say which pool it is" said
note "the event says: $(said)"
equal "$(sha256sum <"$image")" "$before" "the file with a file system"
leaves_nothing
