#!/usr/bin/env bash
# An object store that the cluster reaches and that is none of its own: MinIO, as a program of node 2 beside the kubelet. It is there whatever
# becomes of the cluster's objects, pods and pools, as a store elsewhere would be; what it holds is in the cluster's directory (node2/store).
#
#   e2e/store.sh       also when it runs, or ran: it goes on with what it has
#
# Where it is, and what opens it, is in store/keys of that directory, to be sourced: `store`, `store_user`, `store_password`, and `canary`, which is in
# all secrets of the run and in nothing else (scenarios/library.sh looks for it).
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. e2e/cluster/env.sh
. e2e/cluster/components.sh

mkdir -p "$run/store" "$run/node2/store/exports"
if [ ! -e "$run/store/keys" ]; then
    canary=canary$(openssl rand -hex 8)
    (umask 077 && printf 'store=http://%s:9000\nstore_user=user-%s\nstore_password=key-%s\ncanary=%s\n' "$node_network.2" "$canary" "$canary" "$canary" >"$run/store/keys")
fi
. "$run/store/keys"
# A directory of the store's is a bucket.
MINIO_ROOT_USER=$store_user MINIO_ROOT_PASSWORD=$store_password MINIO_BROWSER=off MINIO_UPDATE=off \
    start 2 minio "$(tools_of minio)/minio" server "$run/node2/store" --address "$node_network.2:9000"
# asked PATH: whether the store answers so with success.
asked() { inside 2 bash -c 'exec 3<>"/dev/tcp/$0/9000" && printf "GET %s HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n" "$1" >&3 && head -n 1 <&3 | grep -q " 200 "' "$node_network.2" "$1" 2>/dev/null; }
for _ in $(seq 300); do
    ! asked /minio/health/ready || exit 0
    sleep 0.1
done
printf 'store.sh: MinIO does not answer:\n' >&2
tail -n 15 "$run/log/minio.log" >&2
exit 1
