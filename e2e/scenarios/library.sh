# What scenarios are written with. Sourced by e2e/scenarios.sh in a shell of its own for each scenario, with -euo pipefail; so whatever fails ends
# the scenario, and its output is its log. `namespace` is the scenario's own.
#
# Nothing here waits by the clock: it waits for a state, no longer than `patience` seconds.

patience=${WINDLASS_PATIENCE:-180}
driver=csi.windlass.dev
driver_namespace=windlass-system

kubectl() { cluster_kubectl "$@"; }
k() { kubectl -n "$namespace" "$@"; }
apply() { k apply -f - >/dev/null; }
note() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
fail() { printf 'NOT SO: %s\n' "$*" >&2; exit 1; }
# not_checked WHAT AND WHY: is printed with the scenario's result.
not_checked() { printf 'NOT CHECKED: %s\n' "$*"; }
equal() { [ "$1" = "$2" ] || fail "$3: $1, not $2"; }

# until_true WHAT COMMAND...: until the command succeeds.
until_true() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { "$@" >&2 || true; fail "not within $patience s: $what"; }
        sleep 0.3
    done
}
refused() { ! "$@"; }

# claim NAME SIZE [class=C] [mode=Block] [access=ReadWriteOnce] [from=VolumeSnapshot/NAME|PersistentVolumeClaim/NAME] [volume=PV]
claim() {
    local name=$1 size=$2 class=windlass mode=Filesystem access=ReadWriteOnce from= volume= option group
    shift 2
    for option in "$@"; do local "${option%%=*}"="${option#*=}"; done
    {
        printf 'apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s}\n' "$name"
        printf 'spec:\n  accessModes: [%s]\n  storageClassName: "%s"\n  volumeMode: %s\n' "$access" "$class" "$mode"
        printf '  resources: {requests: {storage: %s}}\n' "$size"
        if [ -n "$from" ]; then
            group=
            [ "${from%%/*}" != VolumeSnapshot ] || group=', apiGroup: snapshot.storage.k8s.io'
            printf '  dataSource: {kind: %s, name: %s%s}\n' "${from%%/*}" "${from#*/}" "$group"
        fi
        [ -z "$volume" ] || printf '  volumeName: %s\n' "$volume"
    } | apply
}

# pod NAME CLAIM:PATH... [command=COMMAND] [node=NODE] [readonly=true] [account=NAME] [image=NAME]: a pod with busybox, which waits for `inside` unless told what to do.
# A claim whose path begins with /dev/ is a raw block device.
pod() {
    local name=$1 command='trap "exit 0" TERM; sleep 100000 & wait' node= readonly=false account=default image=$busybox argument
    local mounts=() devices=()
    shift
    for argument in "$@"; do
        case $argument in
            *:/dev/*) devices+=("$argument") ;;
            *:/*) mounts+=("$argument") ;;
            *) local "${argument%%=*}"="${argument#*=}" ;;
        esac
    done
    {
        printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {scenario: "%s"}}\nspec:\n' "$name" "$namespace"
        printf '  restartPolicy: Never\n  terminationGracePeriodSeconds: 2\n  serviceAccountName: %s\n' "$account"
        [ -z "$node" ] || printf '  nodeSelector: {kubernetes.io/hostname: %s}\n' "$node"
        printf '  containers:\n    - name: c\n      image: %s\n      imagePullPolicy: Never\n      command: [sh, -c, %s]\n' "$image" "$(jq -Rn --arg text "$command" '$text')"
        printf '      volumeMounts:\n        - {name: scratch, mountPath: /scratch}\n'
        for argument in "${mounts[@]}"; do printf '        - {name: %s, mountPath: %s, readOnly: %s}\n' "${argument%%:*}" "${argument#*:}" "$readonly"; done
        [ "${#devices[@]}" = 0 ] || printf '      volumeDevices:\n'
        for argument in "${devices[@]}"; do printf '        - {name: %s, devicePath: %s}\n' "${argument%%:*}" "${argument#*:}"; done
        printf '  volumes:\n    - {name: scratch, emptyDir: {}}\n'
        for argument in "${mounts[@]}" "${devices[@]}"; do
            printf '    - {name: %s, persistentVolumeClaim: {claimName: %s, readOnly: %s}}\n' "${argument%%:*}" "${argument%%:*}" "$readonly"
        done
    } | apply
}
ready() { local name; for name in "$@"; do k wait --for=condition=Ready "pod/$name" --timeout="${patience}s" >/dev/null; done; }
run_pod() { pod "$@"; ready "$1"; }
inside_pod() { local name=$1; shift; k exec "$name" -- sh -euc "$*"; }
end_pods() { k delete pod "$@" --wait --timeout="${patience}s" >/dev/null; }

# snapshot NAME CLAIM [CLASS]: made, and ready.
snapshot() {
    printf 'apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: %s}\nspec: {volumeSnapshotClassName: %s, source: {persistentVolumeClaimName: %s}}\n' \
        "$1" "${3:-windlass-local}" "$2" | apply
    snapshot_ready "$1"
}
snapshot_ready() { k wait --for=jsonpath='{.status.readyToUse}'=true "volumesnapshot/$1" --timeout="${patience}s" >/dev/null; }
content_of() { k get volumesnapshot "$1" -o jsonpath='{.status.boundVolumeSnapshotContentName}'; }
handle_of() { kubectl get volumesnapshotcontent "$(content_of "$1")" -o jsonpath='{.status.snapshotHandle}'; }
volume_of() { k get pvc "$1" -o jsonpath='{.spec.volumeName}'; }

# Random files, and one checksum over all files of a directory and their names.
fill() { inside_pod "$1" "for i in 1 2 3 4; do dd if=/dev/urandom of=$2/file\$i bs=1M count=${3:-4} 2>/dev/null; done; mkdir -p $2/deep/er; echo \$\$ >$2/deep/er/file; sync"; }
checksum() { inside_pod "$1" "cd $2; find . -type f ! -path './lost+found/*' -exec sha256sum {} + | sort -k 2 | sha256sum | cut -c 1-64"; }
device_checksum() { inside_pod "$1" "dd if=$2 bs=1M ${3:+count=$3} 2>/dev/null | sha256sum | cut -c 1-64"; }

# A database in a claim: it moves amounts between a hundred accounts, one durable transaction after the other, and goes on where it was.
# database POD CLAIM
database() {
    pod "$1" "$2:/data" image=localhost/sqlite:3 command='trap "exit 0" TERM
        ask() { sqlite3 -bail -cmd ".timeout 10000" -cmd "pragma synchronous = full" /data/ledger.db "$1"; }
        ask "pragma journal_mode = wal" >/dev/null
        ask "begin immediate; create table if not exists account (id integer primary key, balance integer not null);
            create table if not exists transfer (id integer primary key, source integer, target integer, amount integer, at integer);
            with recursive number(n) as (select 0 union all select n + 1 from number where n < 99) insert or ignore into account select n, 1000 from number; commit"
        last=$(ask "select coalesce(max(id), 0) from transfer")
        while last=$((last + 1)); do
            from=$((last % 100)) to=$((last * 7 % 97)) amount=$((last % 13))
            ask "begin immediate; update account set balance = balance - $amount where id = $from; update account set balance = balance + $amount where id = $to;
                insert into transfer values ($last, $from, $to, $amount, unixepoch()); commit" || exit 1
            echo $last >/scratch/acknowledged
        done'
    ready "$1"
    until_true "the database of $1 has acknowledged a transfer" inside_pod "$1" '[ -s /scratch/acknowledged ]'
}
ask_database() { k exec "$1" -- sqlite3 -cmd '.timeout 10000' /data/ledger.db "$2"; }
acknowledged() { inside_pod "$1" 'cat /scratch/acknowledged'; }
# sound_database POD: its own check, and that of what is kept in it: nothing was lost or counted twice, and each balance follows from the transfers.
sound_database() {
    equal "$(ask_database "$1" 'pragma integrity_check')" ok "the check of the database"
    equal "$(ask_database "$1" 'select sum(balance), count(*) from account')" '100000|100' "the sum of the accounts"
    equal "$(ask_database "$1" 'select max(id) - count(*) from transfer')" 0 "the transfers that are missing before the last one"
    equal "$(ask_database "$1" 'begin; select count(*) from account a where balance != 1000 + (select coalesce(sum(amount), 0) from transfer where target = a.id)
        - (select coalesce(sum(amount), 0) from transfer where source = a.id)')" 0 "the accounts that do not follow from the transfers"
}

# The driver's pod; processes of its containers are found by their ids, never by a name.
driver_pod() { kubectl -n $driver_namespace get pod -l app.kubernetes.io/name=windlass -o jsonpath='{.items[0].metadata.name}'; }
driver_ready() { kubectl -n $driver_namespace rollout status daemonset/windlass-node --timeout="${patience}s" >/dev/null; }
# Commands are run in the agent's container, whose socket serves them.
in_driver() { kubectl -n $driver_namespace exec "$(driver_pod)" -c agent -- "$@"; }
# process_of CONTAINER: its number in node 1.
process_of() {
    local id
    id=$(kubectl -n $driver_namespace get pod "$(driver_pod)" -o json | jq -r --arg name "$1" '.status.containerStatuses[] | select(.name == $name) | .containerID')
    inside 1 "$(tool ctr)" -a /run/containerd/containerd.sock -n k8s.io tasks ls | awk -v id="${id#containerd://}" '$1 == id { print $2 }'
}
restarts_of() { kubectl -n $driver_namespace get pod "$(driver_pod)" -o json | jq -r --arg name "$1" '.status.containerStatuses[] | select(.name == $name) | .restartCount'; }

# leaves_nothing: everything of the namespace deleted, until neither volumes nor contents of it are left.
volumes_left() { kubectl get pv -o json | jq -r --arg namespace "$namespace" '.items[] | select(.spec.claimRef.namespace == $namespace) | .metadata.name'; }
contents_left() { kubectl get volumesnapshotcontent -o json | jq -r --arg namespace "$namespace" '.items[] | select(.spec.volumeSnapshotRef.namespace == $namespace) | .metadata.name'; }
nothing_left() { [ -z "$(volumes_left)$(contents_left)" ]; }
leaves_nothing() {
    k delete pod --all --wait --timeout="${patience}s" >/dev/null
    k delete volumesnapshot,pvc --all --wait --timeout="${patience}s" >/dev/null
    until_true "no volume or snapshot of $namespace is left" nothing_left
    kubectl delete namespace "$namespace" --wait=false >/dev/null
}

# Repositories in the store of e2e/store.sh, each with a Secret of its name, which values.yaml gives to the chart.
. "$run/store/keys"
# environment NAME [KEY=VALUE...]: what opens the repository of this name, line by line; of a key that is given twice the last counts.
environment() {
    local name=$1
    shift
    printf '%s\n' "RESTIC_REPOSITORY=s3:$store/exports/$name" "RESTIC_PASSWORD=password-$canary-$name" "AWS_ACCESS_KEY_ID=$store_user" \
        "AWS_SECRET_ACCESS_KEY=$store_password" AWS_REGION=us-east-1 "$@" | tac | awk -F= '!seen[$1]++'
}
# secret NAME [KEY=VALUE...]: the Secret as such, made or replaced.
secret() { kubectl -n backups create secret generic "$1" --from-env-file=<(environment "$@") --dry-run=client -o yaml | kubectl apply -f - >/dev/null; }
# stock_restic NAME ARGUMENT...: restic of the distribution, with the right keys.
stock_restic() {
    local name=$1
    shift
    env $(environment "$name") e2e/cluster/with-cluster restic --no-cache --quiet "$@"
}
exports_in() { stock_restic "$1" snapshots --json | jq length; }
# in_agent NAME COMMAND...: a command in the agent's container with what opens the repository, as docs/repository.md has it.
in_agent() {
    local name=$1
    shift
    environment "$name" | kubectl -n $driver_namespace exec -i "$(driver_pod)" -c agent -- sh -c 'while IFS= read -r line; do export "$line"; done; exec "$@"' - "$@"
}
# request_snapshot NAME CLAIM CLASS: asked for, not waited for.
request_snapshot() {
    printf 'apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: %s}\nspec: {volumeSnapshotClassName: %s, source: {persistentVolumeClaimName: %s}}\n' "$1" "$3" "$2" | apply
}
# events_of KIND NAME: the events of the driver's own that an object has; contents are of no namespace, and events of theirs are in `default`.
events_of() {
    local in=$namespace
    [ "$1" != VolumeSnapshotContent ] || in=default
    kubectl -n "$in" get events -o json --field-selector "involvedObject.kind=$1,involvedObject.name=$2" | jq --arg driver "$driver" '[.items[] | select(.source.component == $driver)]'
}
# has_event KIND NAME REASON [TEXT]: whether there is one with this reason, and this in its text.
has_event() { events_of "$1" "$2" | jq -e --arg reason "$3" --arg text "${4-}" 'any(.[]; .reason == $reason and (.message | contains($text)))'; }
# exported: when the agent ended its last export, in seconds since 1970 with a fraction.
exported() { date -d "$(kubectl -n $driver_namespace logs "$(driver_pod)" -c agent | grep 'transfer succeeded' | grep export | tail -n 1 | cut -d ' ' -f 1)" +%s.%N; }
# soon_ready NAME: waits until a snapshot is ready, and sees to it that this is no later than 20 s after its export ended, the last one.
soon_ready() {
    local ready delay
    snapshot_ready "$1"
    ready=$(date +%s.%N)
    delay=$(awk -v ready="$ready" -v ended="$(exported)" 'BEGIN { printf "%.1f", ready - ended }')
    note "$1 was ready $delay s after the end of its export"
    awk -v delay="$delay" 'BEGIN { exit !(delay >= 0 && delay <= 20) }' || fail "$1 was ready $delay s after the end of its export"
}
# From here to `end_silence`, whoever asks the store gets no answer, and whoever waits for one goes on waiting.
silence() { inside 2 nft "add table inet silence; add chain inet silence in { type filter hook input priority 0; }; add rule inet silence in tcp dport 9000 drop"; }
end_silence() { inside 2 nft 'add table inet silence; delete table inet silence'; }
# delete_retained NAME...: snapshots, and their contents, which are to be kept and so have to go by themselves.
delete_retained() {
    local name contents=()
    for name in "$@"; do contents+=("$(content_of "$name")"); done
    k delete volumesnapshot "$@" --wait --timeout="${patience}s" >/dev/null
    kubectl delete volumesnapshotcontent "${contents[@]}" --wait --timeout="${patience}s" >/dev/null
}

# metrics: of the agent and the node, as Prometheus gets them; by way of the API server, since pods are not reached from here.
metrics() { kubectl get --raw "/api/v1/namespaces/$driver_namespace/pods/$(driver_pod):9810/proxy/metrics"; }

# no_secret_seen: what is in all Secrets of repositories is in no log of a container or a program of the cluster, no object but the Secrets, no metric, no
# file of the agent's and nowhere in a pool. The store's own log is the store's.
no_secret_seen() {
    local places=() found
    kubectl get "$(kubectl api-resources --verbs=list -o name | grep -vx secrets | paste -sd ,)" -A -o json >"$run/scenarios/objects.json" 2>/dev/null || true
    grep -q '"kind": "Event"' "$run/scenarios/objects.json" || fail "no event is among the objects that are searched"
    metrics >"$run/scenarios/metrics.txt"
    grep -q '^windlass_build_info' "$run/scenarios/metrics.txt" || fail "there are no metrics to be searched"
    sync
    for found in "$run"/node*/disk/pods-log "$run"/log "$run"/node*/disk/windlass/*.img "$run"/node*/disk/kubelet/pods/*/volumes/kubernetes.io~empty-dir "$run/scenarios"/{objects.json,metrics.txt}; do
        [ ! -e "$found" ] || places+=("$found")
    done
    [ "${#places[@]}" -ge 6 ] || fail "there is little to be searched: ${places[*]}"
    found=$(grep -raFl --exclude=minio.log --devices=skip -e "$canary" "${places[@]}" || true)
    [ -z "$found" ] || fail "a secret is in: $found"
}

# For backup programs: an account that may ask for changed blocks of this namespace, and a program that does so (e2e/tools/snapshot-metadata/changed-blocks).
backup_account() {
    k create serviceaccount backup >/dev/null
    kubectl apply -f - >/dev/null <<END
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: snapshot-metadata-client}
rules:
  - {apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshots, volumesnapshotcontents], verbs: [get, list, watch]}
  - {apiGroups: [cbt.storage.k8s.io], resources: [snapshotmetadataservices], verbs: [get, list]}
  - {apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: snapshot-metadata-client-$namespace}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: snapshot-metadata-client}
subjects: [{kind: ServiceAccount, name: backup, namespace: $namespace}]
END
}
give_program() { k exec -i "$1" -- sh -c 'cat >/scratch/changed-blocks && chmod 755 /scratch/changed-blocks' <"$(tool changed-blocks)"; }
# ask POD ARGUMENT...: the answer's lines.
ask() { local name=$1; shift; k exec "$name" -- /scratch/changed-blocks -namespace "$namespace" "$@"; }
# totals: RANGES BYTES SIZE of an answer on standard input.
totals() { sed -n 's/^end //p'; }
