#!/usr/bin/env bash
# The images of the cluster's pods, made of the programs that build.sh has built, under the names that the rest of the world uses.
#
#   e2e/cluster/images.sh                makes those that are not there: pause, busybox, a database, CoreDNS, snapshot-controller, the sidecars
#   e2e/cluster/images.sh import NODE    brings into a node's containerd what it does not have of them, and of the images of `add`
#   e2e/cluster/images.sh add ARCHIVE    an archive from elsewhere, such as the driver's image, for both nodes of this cluster
#
# They are kept beside the tools, by a hash of all that they are made of.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"

busybox=/bin/busybox
# A database whose commits are to be durable: SQLite of the distribution.
database=/usr/bin/sqlite3
mkdir -p "$run"
[ -e "$run/tools" ] || choose_tools
hash=$({ cat "$run/tools"; sha256sum "$busybox" "$database" "$cluster_source"/{images.sh,oci-image.py,pause.c}; } | sha256sum | cut -c 1-16)
images=$tools_cache/images-$hash

# version MODULE PATH: the tag of an upstream image, which is the version of the Go module that its program is built from.
version() { awk -v path="$2" '{ for (i = 1; i < NF; i++) if ($i == path) { print $(i + 1); exit } }' "$tools_source/$1/go.mod"; }

# image FILE NAME ARGUMENT...
image() {
    local file=$1 name=$2
    shift 2
    python3 "$cluster_source/oci-image.py" "$name" "$making/$file.tar" "$@" >"$making/$file.digest"
    printf '%s\n' "$name" >"$making/$file.name"
}

# of_program NAME TAG [USER]: the image of one static program.
of_program() {
    image "$(basename "$1")" "$1:$2" "$(tool "$(basename "$1")"):/$(basename "$1")" --entrypoint "[\"/$(basename "$1")\"]" --user "${3:-65532:65532}"
}

make_images() {
    local csi=github.com/kubernetes-csi links libraries=() program
    [ ! -d "$images" ] || { touch "$images"; return 0; }
    making=$images.making
    rm -rf "$making"
    mkdir -p "$making"
    gcc -O2 -static -o "$making/pause" "$cluster_source/pause.c"
    image pause registry.k8s.io/pause:3.10 "$making/pause:/pause" --entrypoint '["/pause"]' --user 65535:65535
    links=()
    for program in $("$busybox" --list); do [ "$program" = busybox ] || links+=(--link "busybox:/bin/$program"); done
    # With the libraries that it is linked to, each at its place.
    for program in "$database" $(ldd "$database" | grep -o '/[^ ]*'); do libraries+=("$(readlink -f "$program"):$program"); done
    image database localhost/sqlite:3 "$busybox:/bin/busybox" "${libraries[@]}" "${links[@]}" --directory tmp:1777 --command '["sh"]'
    image busybox docker.io/library/busybox:1.37 "$busybox:/bin/busybox" "${links[@]}" --directory tmp:1777 --command '["sh"]'
    of_program registry.k8s.io/coredns/coredns "$(version kubernetes github.com/coredns/coredns)"
    of_program registry.k8s.io/sig-storage/snapshot-controller "$(version kubernetes $csi/external-snapshotter/v8)"
    of_program registry.k8s.io/sig-storage/csi-snapshotter "$(version kubernetes $csi/external-snapshotter/v8)"
    of_program registry.k8s.io/sig-storage/csi-provisioner "$(version kubernetes $csi/external-provisioner/v6)"
    of_program registry.k8s.io/sig-storage/csi-resizer "$(version kubernetes $csi/external-resizer/v2)"
    of_program registry.k8s.io/sig-storage/csi-snapshot-metadata "$(version snapshot-metadata $csi/external-snapshot-metadata)"
    mv "$making" "$images"
}

import() {
    local node=$1 ctr name digest file there
    ctr="$(tool ctr) -a /run/containerd/containerd.sock -n k8s.io images"
    there=$(inside "$node" $ctr ls 2>>"$run/log/import.log")
    for name in "$images"/*.name "$run"/images/*.name; do
        [ -e "$name" ] || continue
        file=${name%.name}
        digest=$(cat "$file.digest")
        name=$(cat "$name")
        ! awk -v name="$name" -v digest="$digest" '$1 == name && $3 == digest { found = 1 } END { exit !found }' <<<"$there" || continue
        inside "$node" $ctr import --local "$file.tar" >>"$run/log/import.log" 2>&1 || { printf 'images.sh: %s could not be imported on node %s\n' "$name" "$node" >&2; return 1; }
    done
}

add() {
    local archive=$1 index name node file
    index=$(tar -xOf "$archive" index.json)
    read -r name digest < <(python3 -c '
import json, sys
only, = json.load(sys.stdin)["manifests"]
names = only["annotations"]
print(names.get("io.containerd.image.name") or names["org.opencontainers.image.ref.name"], only["digest"])' <<<"$index")
    file=$run/images/$(tr '/:' '--' <<<"$name")
    mkdir -p "$run/images"
    rm -f "$file".{name,digest,tar}
    cp --reflink=auto "$archive" "$file.tar"
    printf '%s\n' "$digest" >"$file.digest"
    printf '%s\n' "$name" >"$file.name"
    for node in $nodes; do ! node_pid "$node" >/dev/null || import "$node"; done
}

mkdir -p "$tools_cache"
exec 7>"$tools_cache/images.lock"
flock 7
case ${1-} in
    '') make_images ;;
    import) import "$2" ;;
    add) add "$2" ;;
    *) printf 'usage: %s [import NODE | add ARCHIVE]\n' "$0" >&2; exit 2 ;;
esac
