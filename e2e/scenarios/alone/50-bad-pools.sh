# A pool that cannot be served says why in the pod's events or its log, nothing is written to what it names, other pools are served, and it is when it can be.
# A file with somebody's file system in it, where the values say that an image is to be. (With a disk it is the same, but this needs device-mapper.)
image=$run/node1/disk/windlass/foreign.img
truncate -s 1G "$image"
mkfs.ext4 -q -F "$image"
before=$(sha256sum <"$image")
away_image=$run/node1/disk/windlass/away.img
# take_down NAME: what a node that served an image has left mounted, since volumes in it may be in use.
take_down() {
    ! inside 1 mountpoint -q "/var/lib/windlass/$1.mount" || inside 1 umount "/var/lib/windlass/$1.mount"
    [ ! -e "$run/node1/disk/windlass/$1" ] || losetup --noheadings --output NAME --associated "$run/node1/disk/windlass/$1" | xargs -r losetup --detach
}
restore() {
    e2e/install-driver.sh >&2
    take_down foreign.img
    take_down away.img
    rm -f "$image" "$away_image"
}
trap restore EXIT
default='{"name": "default", "nodes": ["node1"], "image": "/var/lib/windlass/default.img", "imageSize": "6Gi"}'
foreign='{"name": "foreign", "image": "/var/lib/windlass/foreign.img", "imageSize": "1Gi"}'
class='{"name": "windlass", "pool": "default", "fsType": "ext4"}'
install() { e2e/install-driver.sh --set-json "pools=[$1]" --set-json "storageClasses=[$2]"; }
away='{"name": "away", "image": "/var/lib/windlass/away.img", "imageSize": "1Gi"}'
elsewhere='{"name": "elsewhere", "nodes": ["elsewhere-*"], "image": "/var/lib/windlass/elsewhere.img", "imageSize": "1Gi"}'
# Beside a pool that works: that is served, and the log of the init container says what is wrong with the other. One of another node is not made.
WINDLASS_POOLS_SERVED=2 install "$default, $foreign, $elsewhere, $away" "$class"
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
# The sidecars wait for the first pool, so that no pause between their restarts keeps the claims waiting when it is there.
sidecars="csi-provisioner csi-snapshotter csi-resizer csi-snapshot-metadata"
waits() { kubectl -n $driver_namespace logs "$(driver_pod)" -c "$1" | grep -q 'CSI driver is not ready'; }
for container in $sidecars; do
    until_true "$container waits" waits "$container"
    equal "$(restarts_of "$container")" 0 "restarts of $container while no pool is open"
done
# The disk is put in: an image that was made a pool before, and is in use nowhere.
take_down away.img
take_down foreign.img
mv "$away_image" "$image"
driver_ready
# The node registers anew with the pool, for which it is started anew; so are they then, once.
for container in $sidecars; do [ "$(restarts_of "$container")" -le 1 ] || fail "$container was started anew $(restarts_of "$container") times"; done
kubectl apply -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: back}
provisioner: $driver
volumeBindingMode: WaitForFirstConsumer
parameters: {csi.storage.k8s.io/fstype: ext4}
END
claim back 64Mi class=back
run_pod user back:/data
fill user /data 2
kubectl delete storageclass back >/dev/null
leaves_nothing
