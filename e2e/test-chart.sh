#!/usr/bin/env bash
# The chart, without a cluster: what it renders, what it refuses and with which words, and that deploy/manifests is what it renders.
#
#   e2e/test-chart.sh            runs everything; ends with `N passed, N failed`
#   e2e/test-chart.sh --write    writes deploy/manifests anew
#
# Needs helm 4 (HELM names it) and jq. Rendered YAML is made JSON by helm itself, through a chart of one template, and asked by jq; so the
# tests see objects and never lines of text.
set -uo pipefail
cd "$(dirname "$0")/.."

helm=${HELM:-helm}
command -v "$helm" >/dev/null || { echo "helm is missing; name it by HELM=PATH" >&2; exit 2; }
command -v jq >/dev/null || { echo "jq is missing (apt-get install jq)" >&2; exit 2; }
chart=deploy/chart
scratch=$(mktemp -d /tmp/windlass-chart.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
. e2e/checks.sh

# Clusters, as `helm template` is told of them.
snapshots=(--api-versions snapshot.storage.k8s.io/v1/VolumeSnapshot)
metadata=(--api-versions cbt.storage.k8s.io/v1beta1/SnapshotMetadataService)
monitoring=(--api-versions monitoring.coreos.com/v1/PodMonitor --api-versions monitoring.coreos.com/v1/PrometheusRule)
openshift=(--api-versions security.openshift.io/v1/SecurityContextConstraints)

render() { "$helm" template windlass "$chart" --namespace windlass-system --kube-version 1.37.2 "$@"; }

# as_json FILE: the objects of a YAML file as one JSON array.
mkdir -p "$scratch/json/templates"
printf 'apiVersion: v2\nname: json\nversion: 0.0.1\n' >"$scratch/json/Chart.yaml"
cat >"$scratch/json/templates/all.yaml" <<'TEMPLATE'
objects: |
{{- range regexSplit "(?m)^---$" (.Files.Get "objects.yaml") -1 }}
{{- $object := fromYaml . }}
{{- with index $object "Error" }}{{ fail . }}{{ end }}
{{- if $object }}
  {{ toJson $object }}
{{- end }}
{{- end }}
TEMPLATE
as_json() {
    sed 's/^---$/\n---/' "$1" >"$scratch/json/objects.yaml"
    "$helm" template json "$scratch/json" --set "padding=x" | sed -n 's/^  \({.*\)$/\1/p' | jq -s .
}

# The variants that are looked at; the first three are in deploy/manifests.
declare -A variant=(
    [single-node]="--set createNamespace=true"
    [single-node-openshift]="--set createNamespace=true ${openshift[*]}"
    [changed-blocks]="${metadata[*]}"
    [metrics]="--set metrics.enabled=true --set metrics.perClaim=true --set metrics.port=9999 ${monitoring[*]}"
    [metrics-alone]="--set metrics.enabled=true"
)
header='# Rendered from deploy/chart by e2e/test-chart.sh --write; change the chart, not this. Values of your own: helm template.'
write() {
    local name
    for name in single-node single-node-openshift; do
        # shellcheck disable=SC2086 # words of a list without spaces in them
        { printf '%s\n' "$header"; render "${snapshots[@]}" ${variant[$name]}; } >"$1/$name.yaml" || return 1
    done
}
if [ "${1-}" = --write ]; then
    mkdir -p deploy/manifests
    write deploy/manifests
    exit
fi

for name in "${!variant[@]}"; do
    # shellcheck disable=SC2086
    render "${snapshots[@]}" ${variant[$name]} >"$scratch/$name.yaml" && as_json "$scratch/$name.yaml" >"$scratch/$name.json" \
        || { echo "the chart does not render as $name" >&2; exit 1; }
    [ "$(jq length "$scratch/$name.json")" = "$(grep -c '^kind: ' "$scratch/$name.yaml")" ] \
        || { echo "not every object of $name was read" >&2; exit 1; }
done

# holds VARIANT FILTER: whether the filter is true of the array of objects. `object(KIND; NAME)`, `pod`, `container(NAME)` help.
words='
    def object($kind; $name): [.[] | select(.kind == $kind and .metadata.name == $name)] | if length == 1 then .[0] else error("\(length) of \($kind) \($name)") end;
    def kinds($kind): [.[] | select(.kind == $kind)];
    def pod: object("DaemonSet"; "windlass-node").spec.template.spec;
    def container($name): pod | [.initContainers[], .containers[] | select(.name == $name)] | if length == 1 then .[0] else error("\(length) containers \($name)") end;
    def sidecars: ["csi-provisioner", "csi-snapshotter", "csi-resizer", "csi-snapshot-metadata"];
    def rules: [object("ClusterRole"; "windlass-node").rules[], object("Role"; "windlass-node").rules[]];
    def may($group; $resource): [rules[] | select((.apiGroups | index($group)) and (.resources | index($resource))) | .verbs[]] | unique;
    def exactly($wanted): if . == $wanted then true else error("is \(.), not \($wanted)") end;
'
holds() { jq -e "$words $2" "$scratch/$1.json" >"$scratch/answer" || { cat "$scratch/answer"; return 1; }; }

all=changed-blocks

## What is rendered

same_manifests() {
    mkdir -p "$scratch/manifests" && write "$scratch/manifests" && diff -ru deploy/manifests "$scratch/manifests"
}
check "deploy/manifests is what the chart renders" same_manifests
check "helm lint finds nothing" "$helm" lint --strict "$chart"
check "no object is rendered twice" holds $all '[.[] | "\(.kind)/\(.metadata.name)"] | length == (unique | length)'
check "no snapshot controller, no CRD is ever brought" holds $all \
    '[.[] | select(.kind == "CustomResourceDefinition" or .kind == "Deployment")] == []'

## Flags of the sidecars

check "the pod has the sidecars of these releases" holds $all '[pod.containers[].image] | exactly([
    "docker.io/library/windlass:0.1.0", "docker.io/library/windlass:0.1.0", "registry.k8s.io/sig-storage/csi-provisioner:v6.4.0", "registry.k8s.io/sig-storage/csi-snapshotter:v8.7.0",
    "registry.k8s.io/sig-storage/csi-resizer:v2.3.0", "registry.k8s.io/sig-storage/csi-snapshot-metadata:v1.1.0"])'
check "the provisioner waits for calls, asks again soon, and is strict about topology" holds $all 'container("csi-provisioner").args | exactly([
    "--csi-address=/csi/csi.sock", "--timeout=120s", "--retry-interval-max=15s", "--extra-create-metadata", "--strict-topology",
    "--immediate-topology=false", "--enable-capacity", "--capacity-ownerref-level=1", "--capacity-poll-interval=1m", "--leader-election",
    "--leader-election-namespace=windlass-system", "--v=2", "--http-endpoint=:8081"])'
check "the snapshotter waits for calls, asks again soon, and has no group API" holds $all 'container("csi-snapshotter").args | exactly([
    "--csi-address=/csi/csi.sock", "--timeout=120s", "--retry-interval-max=15s", "--extra-create-metadata",
    "--feature-gates=CSIVolumeGroupSnapshot=false", "--leader-election", "--leader-election-namespace=windlass-system", "--v=2",
    "--http-endpoint=:8082"])'
check "the resizer waits for calls and looks at no pods" holds $all 'container("csi-resizer").args | exactly([
    "--csi-address=/csi/csi.sock", "--timeout=120s", "--resize-timeout=120s", "--retry-interval-max=15s", "--handle-volume-inuse-error=false",
    "--leader-election", "--leader-election-namespace=windlass-system", "--v=2", "--http-endpoint=:8083"])'
check "the snapshot-metadata sidecar serves TLS for its audience" holds $all 'container("csi-snapshot-metadata").args | exactly([
    "--csi-address=/csi/csi.sock", "--timeout=120s", "--port=50051", "--tls-cert=/tls/tls.crt", "--tls-key=/tls/tls.key",
    "--audience=csi.windlass.dev", "--http-endpoint=:8084", "--v=2"])'
check "the capacity objects' owner can be found" holds $all \
    '[container("csi-provisioner").env[] | {(.name): .valueFrom.fieldRef.fieldPath}] | add | exactly({NAMESPACE: "metadata.namespace", POD_NAME: "metadata.name"})'
check "the node registers itself with the kubelet, and serves an agent on a socket of its own" holds $all 'container("node").args | exactly([
    "node", "--pool-config=/etc/windlass/pools.json", "--node-id=$(NODE_NAME)", "--root=/var/lib/kubelet",
    "--endpoint=unix:///csi/csi.sock", "--agent-endpoint=unix:///agent/node.sock", "--agent-user=65532", "--agent-group=65532",
    "--kubelet-registration=/registration", "--kubelet-endpoint=/var/lib/kubelet/plugins/csi.windlass.dev/csi.sock"])'
check "the agent finds its node, and lets the sidecars in" holds $all '(container("agent").args | exactly([
    "agent", "--node-id=$(NODE_NAME)", "--node-endpoint=unix:///node/node.sock", "--endpoint=unix:///csi/csi.sock", "--endpoint-group=65533",
    "--scratch-directory=/scratch", "--cache-directory=/cache", "--kubernetes"])) and (pod.securityContext.supplementalGroups | exactly([65533]))'
check "a socket is in a directory that only who serves there can write to" holds $all '
    ([pod | .containers[] | .name as $name | .volumeMounts[] | select(.name == "node-socket" or .name == "agent-socket") | "\($name) \(.name) \(.mountPath) \(.readOnly == true)"]
    | exactly(["node node-socket /agent false", "agent node-socket /node true", "agent agent-socket /csi false",
        (sidecars[] | "\(.) agent-socket /csi true")]))'
check "what the agent writes is bounded, and is no directory of the host" holds $all '
    [pod.volumes[] | select(.name == "scratch" or .name == "cache" or .name == "node-socket" or .name == "agent-socket") | {(.name): .emptyDir.sizeLimit}] | add
    | exactly({"node-socket": "1Mi", "agent-socket": "1Mi", scratch: "33Gi", cache: "10Gi"})'
check "the socket that the kubelet is told of is the one that is served" holds $all '
    ([container("node").volumeMounts[] | select(.mountPath == "/csi") | .name] | .[0]) as $volume
    | [pod.volumes[] | select(.name == $volume) | .hostPath.path] | exactly(["/var/lib/kubelet/plugins/csi.windlass.dev"])'
check "pools are made before they are served, and one that cannot be made does not keep the others away" holds $all 'container("pools").args | exactly([
    "pool", "ensure", "--pool-config=/etc/windlass/pools.json", "--node-id=$(NODE_NAME)", "--best-effort"])'
check "only readiness asks for a pool; liveness asks for an answer" holds $all '
    (container("node").readinessProbe.exec.command | exactly(["windlass", "node", "probe", "--endpoint=unix:///csi/csi.sock"]))
    and (container("node").livenessProbe.exec.command | exactly(["windlass", "node", "probe", "--endpoint=unix:///csi/csi.sock", "--live"]))
    and (container("agent").readinessProbe.exec.command | exactly(["windlass", "agent", "probe", "--endpoint=unix:///csi/csi.sock"]))
    and (container("agent").livenessProbe.exec.command | exactly(["windlass", "agent", "probe", "--endpoint=unix:///csi/csi.sock", "--live"]))'
check "a sidecar that waits for the first pool of the node is not ended within a day" holds $all '
    [sidecars[] as $name | container($name).startupProbe | .periodSeconds * .failureThreshold] | exactly([86400, 86400, 86400, 86400])'
check "clients of changed blocks are led to a sidecar only when it listens" holds $all \
    'container("csi-snapshot-metadata").readinessProbe.httpGet | exactly({path: "/health", port: 8084})'
check "two pods never own a pool at once" holds $all \
    'object("DaemonSet"; "windlass-node").spec.updateStrategy | exactly({type: "RollingUpdate", rollingUpdate: {maxSurge: 0, maxUnavailable: 1}})'

## Who may do what

check "only the node and the pools' init container are privileged" holds $all \
    '[pod | .initContainers[], .containers[] | select(.securityContext.privileged) | .name] | exactly(["pools", "node"])'
unprivileged='{allowPrivilegeEscalation: false, capabilities: {drop: ["ALL"]}, privileged: false, readOnlyRootFilesystem: true, runAsNonRoot: true,
    seccompProfile: {type: "RuntimeDefault"}}'
check "sidecars are a user without capability, cannot gain one, and write nowhere" holds $all '[sidecars[] as $name | container($name).securityContext] | unique
    | exactly(['"$unprivileged"' + {runAsUser: 65533, runAsGroup: 65533}])'
check "the agent is another such user" holds $all 'container("agent").securityContext | exactly('"$unprivileged"' + {runAsUser: 65532, runAsGroup: 65532})'
check "no root file system can be written to" holds $all \
    '[pod | .initContainers[], .containers[] | select(.securityContext.readOnlyRootFilesystem | not) | .name] == []'
check "the token of the pod is in the sidecars alone, and the agent has that of its own account" holds $all '
    pod.automountServiceAccountToken == false and object("ServiceAccount"; "windlass-node").automountServiceAccountToken == false
    and ([pod | .initContainers[], .containers[] | select(any(.volumeMounts[]; .name == "api-token")) | .name] | exactly(sidecars))
    and ([pod | .initContainers[], .containers[] | select(any(.volumeMounts[]; .name == "agent-token")) | .name] | exactly(["agent"]))
    and ([pod.volumes[] | select(.name == "agent-token") | .secret.secretName] | exactly(["windlass-agent-token"]))
    and (object("Secret"; "windlass-agent-token") | [.type, .metadata.annotations["kubernetes.io/service-account.name"], has("data")]
        | exactly(["kubernetes.io/service-account-token", "windlass-agent", false]))'
check "the TLS key is in one sidecar alone" holds $all \
    '[pod | .initContainers[], .containers[] | select(any(.volumeMounts[]; .name == "tls")) | .name] | exactly(["csi-snapshot-metadata"])'
check "sidecars see the socket of the agent, and nothing of the node or the host beside it" holds $all \
    '[sidecars[] as $name | container($name).volumeMounts[].name] | unique | exactly(["agent-socket", "api-token", "tls"])'
check "the agent sees nothing of the host, and neither the pod's token nor the key" holds $all \
    '[container("agent").volumeMounts[].name] | exactly(["node-socket", "agent-socket", "scratch", "cache", "agent-token"])'
check "the pod shares no namespace of the host" holds $all 'pod | (.hostNetwork or .hostPID or .hostIPC) | not'
check "mounts reach the host, and only from the privileged containers" holds $all '
    [pod | .initContainers[], .containers[] | .name as $name | .volumeMounts[] | select(.mountPropagation == "Bidirectional") | "\($name) \(.mountPath)"]
    | exactly(["pools /var/lib/windlass", "node /var/lib/kubelet", "node /var/lib/windlass"])'
check "the rights are these, and no others" holds $all '[rules[] | .apiGroups[0] as $group | .resources[] as $resource | "\($group)/\($resource): \(.verbs | join(" "))"] | exactly([
    "/persistentvolumes: get list watch create patch delete", "/persistentvolumeclaims: get list watch update",
    "/persistentvolumeclaims/status: patch", "/nodes: get list watch", "storage.k8s.io/storageclasses: get list watch",
    "storage.k8s.io/csinodes: get list watch", "/events: create patch", "snapshot.storage.k8s.io/volumesnapshots: get list watch update",
    "snapshot.storage.k8s.io/volumesnapshotcontents: get list watch update patch",
    "snapshot.storage.k8s.io/volumesnapshotcontents/status: update patch", "snapshot.storage.k8s.io/volumesnapshotclasses: get list watch",
    "authentication.k8s.io/tokenreviews: create", "authorization.k8s.io/subjectaccessreviews: create",
    "cbt.storage.k8s.io/snapshotmetadataservices: get",
    "coordination.k8s.io/leases: get create update", "storage.k8s.io/csistoragecapacities: get list watch create update patch delete",
    "/pods: get"])'
secrets='[.[] | select(.kind == "Role" or .kind == "ClusterRole") | .kind as $kind | .metadata as $of | .rules[] | select(.resources | index("secrets"))
    | "\($kind) \($of.namespace) \($of.name): \(.verbs | join(" ")) \(.resources | join(" ")) \(.resourceNames // ["*"] | join(" "))"]'
check "nobody may read a Secret, where no repository is given" holds $all "$secrets | exactly([])"
check "without changed blocks nobody reviews tokens" holds single-node \
    'may("authentication.k8s.io"; "tokenreviews") == [] and may("authorization.k8s.io"; "subjectaccessreviews") == [] and may("cbt.storage.k8s.io"; "snapshotmetadataservices") == []'
check "the agent may tell events and look at their objects by name, and nothing else" holds $all '
    [object("ClusterRole"; "windlass-agent").rules[] | .apiGroups[0] as $group | .resources[] as $resource | "\($group)/\($resource): \(.verbs | join(" "))"] | exactly([
    "/events: create patch", "/persistentvolumeclaims: get", "snapshot.storage.k8s.io/volumesnapshots: get", "snapshot.storage.k8s.io/volumesnapshotcontents: get"])'
check "each role is its own account's alone" holds $all \
    '[kinds("ClusterRoleBinding")[], kinds("RoleBinding")[] | "\(.roleRef.name) \(.subjects[] | .namespace + "/" + .name)"] | unique | exactly([
    "windlass-agent windlass-system/windlass-agent", "windlass-node windlass-system/windlass-node"])'
check "nothing is reachable but the port for changed blocks" holds $all '
    ([kinds("Service")[].spec.ports[] | "\(.port) \(.targetPort)"] | exactly(["6443 metadata"]))
    and ([pod.containers[] | .name as $name | .ports // [] | .[] | "\($name) \(.name) \(.containerPort)"] | exactly(["csi-snapshot-metadata metadata 50051"]))'

## Metrics

check "without a word nothing listens for scrapers, whatever the cluster has" holds $all \
    '([container("agent").args[], container("node").args[] | select(contains("metrics"))] == []) and (kinds("PodMonitor") + kinds("PrometheusRule") == [])'
check "the agent is scraped for both, and claims have series if that is asked for" holds metrics '
    ([container("agent").args[], container("node").args[] | select(contains("metrics"))] | exactly(["--metrics-address=[::]:9999", "--metrics-per-claim"]))
    and (container("agent").ports | exactly([{name: "metrics", containerPort: 9999}]))
    and (object("PodMonitor"; "windlass").spec | (.podMetricsEndpoints[0].port == "metrics") and (.selector.matchLabels | exactly({"app.kubernetes.io/name": "windlass", "app.kubernetes.io/component": "node"})))'
check "the alerts are those of the rule file, with their templates" holds metrics '
    [object("PrometheusRule"; "windlass").spec.groups[].rules[] | {alert, summary: .annotations.summary}] | (length > 10)
    and (map(select(.alert == "WindlassPoolFailed"))[0].summary == "The pool at {{ $labels.place }} cannot be used")'
check "without the operator's API its objects are left out, and the port is there" holds metrics-alone '
    (kinds("PodMonitor") + kinds("PrometheusRule") == []) and (container("agent").args | index("--metrics-address=[::]:9810")) != null'

## What the cluster is told

check "the driver has capacity, no attachment, and labels by mount" holds $all 'object("CSIDriver"; "csi.windlass.dev").spec | exactly({
    attachRequired: false, podInfoOnMount: false, requiresRepublish: false, fsGroupPolicy: "File", seLinuxMount: true, storageCapacity: true,
    volumeLifecycleModes: ["Persistent"]})'
check "classes bind late, but the one for Velero's movers" holds $all '[kinds("StorageClass")[] | {(.metadata.name): .volumeBindingMode}] | add | exactly({
    windlass: "WaitForFirstConsumer", "windlass-raw": "WaitForFirstConsumer", "windlass-immediate": "Immediate"})'
check "every class can grow" holds $all '[kinds("StorageClass")[].allowVolumeExpansion] | unique | exactly([true])'
check "exactly one snapshot class has what Velero looks for, label or annotation, and it is the local one" holds $all '
    [kinds("VolumeSnapshotClass")[] | select((.metadata.labels | has("velero.io/csi-volumesnapshot-class"))
        or (.metadata.annotations // {} | has("snapshot.storage.kubernetes.io/is-default-class"))) | .metadata.name] | exactly(["windlass-local"])'
check "exactly one snapshot class is the default, which changed blocks of imported snapshots need" holds $all \
    '[kinds("VolumeSnapshotClass")[] | select(.metadata.annotations["snapshot.storage.kubernetes.io/is-default-class"] == "true")] | length == 1'
check "no snapshot class names a repository or a Secret that was not given" holds $all '[kinds("VolumeSnapshotClass")[] | select(has("parameters"))] == []'
check "the pod cannot be evicted, by a number, which is what works for DaemonSets" holds $all \
    'object("PodDisruptionBudget"; "windlass-node").spec | (.minAvailable == 1) and (has("maxUnavailable") | not) and (.selector.matchLabels == {"app.kubernetes.io/name": "windlass", "app.kubernetes.io/component": "node"})'
check "the pod is what the selectors choose" holds $all '
    object("DaemonSet"; "windlass-node").spec as $set | $set.selector.matchLabels as $wanted
    | ($set.template.metadata.labels | with_entries(select($wanted[.key]))) == $wanted
    and object("Service"; "windlass-snapshot-metadata").spec.selector == $wanted'
check "what is selected by never changes with release or version" holds $all \
    'object("DaemonSet"; "windlass-node").spec.selector.matchLabels | keys | exactly(["app.kubernetes.io/component", "app.kubernetes.io/name"])'
check "the pod stays when the node is short of memory" holds $all 'pod.priorityClassName == "system-node-critical"'
check "every container says what it needs" holds $all '[pod | .initContainers[], .containers[] | select(.resources.requests.memory and .resources.requests.cpu | not)] == []'
check "the namespace of the manifests admits privileged pods" holds single-node \
    'object("Namespace"; "windlass-system").metadata.labels["pod-security.kubernetes.io/enforce"] == "privileged"'
check "without the API changed blocks are left out whole" holds single-node '
    [.[] | select(.kind == "SnapshotMetadataService" or .type == "kubernetes.io/tls" or .kind == "Service")] == [] and ([pod.containers[].name] | index("csi-snapshot-metadata")) == null'

certificate() {
    jq -r "$words"' object("Secret"; "windlass-snapshot-metadata").data["tls.crt"]' "$scratch/$all.json" | base64 -d >"$scratch/tls.crt"
    jq -r "$words"' object("SnapshotMetadataService"; "csi.windlass.dev").spec.caCert' "$scratch/$all.json" | base64 -d >"$scratch/ca.crt"
    openssl verify -CAfile "$scratch/ca.crt" -verify_hostname windlass-snapshot-metadata.windlass-system.svc "$scratch/tls.crt"
}
check "the authority that is announced vouches for the certificate, and for the name that is announced" certificate
check "what is announced is the service" holds $all \
    'object("SnapshotMetadataService"; "csi.windlass.dev").spec | (.address == "windlass-snapshot-metadata.windlass-system.svc:6443") and (.audience == "csi.windlass.dev")'

## OpenShift

check "OpenShift gets a constraint for this account alone" holds single-node-openshift '
    object("SecurityContextConstraints"; "windlass-node") | (.users | exactly(["system:serviceaccount:windlass-system:windlass-node"])) and .groups == []
    and .allowPrivilegedContainer and .allowHostDirVolumePlugin and (.allowHostNetwork or .allowHostPID or .allowHostIPC | not)'
check "the constraint allows every kind of volume that the pod has" holds single-node-openshift '
    object("SecurityContextConstraints"; "windlass-node").volumes as $allowed
    | [pod.volumes[] | keys[] | select(. != "name")] - $allowed == []'
check "agent and sidecars are spc_t there, or they could not reach the sockets" holds single-node-openshift '
    [pod.containers[] | select(.name != "node") | .securityContext.seLinuxOptions.type] | unique | exactly(["spc_t"])'
check "other clusters get neither" holds single-node '[.[] | select(.kind == "SecurityContextConstraints")] == [] and ([pod.containers[] | select(.securityContext.seLinuxOptions)] == [])'
check "SELinux hosts that are no OpenShift can ask for it" \
    sh -c '"$1" template windlass deploy/chart --api-versions snapshot.storage.k8s.io/v1/VolumeSnapshot --set selinux.sidecarsAsSpc=always | grep -c "type: spc_t" | grep -qx 4' _ "$helm"

## Values

# gives SENTENCE FILTER ARGUMENT...: what the chart renders with these arguments.
gives() {
    local sentence=$1 filter=$2
    shift 2
    if render "${snapshots[@]}" "$@" >"$scratch/given.yaml" && as_json "$scratch/given.yaml" >"$scratch/given.json"; then
        check "$sentence" holds given "$filter"
    else
        check "$sentence" false
    fi
}
cat >"$scratch/pools.yaml" <<'VALUES'
pools:
  - {name: fast, nodes: ["edge-*", "box?"], device: /dev/disk/by-id/nvme-1, overprovisionRatio: "2.5", reserve: 10Gi, deletedSpace: discarded}
  - {name: bulk, directory: /data/windlass}
  - {name: default, image: /srv/pools/default.img, imageSize: 100Gi, overprovisionRatio: 3}
storageClasses:
  - {name: fast, pool: fast, default: true, fsType: xfs, parameters: {logicalBlockSize: "512"}, mountOptions: [noatime]}
VALUES
gives "pools reach the node as they were given" '
    (object("ConfigMap"; "windlass-pools").data["pools.json"] | fromjson).pools | exactly([
    {name: "fast", nodes: ["edge-*", "box?"], device: "/dev/disk/by-id/nvme-1", overprovisionRatio: "2.5", reserve: "10Gi", deletedSpace: "discarded"},
    {name: "bulk", directory: "/data/windlass"},
    {name: "default", image: "/srv/pools/default.img", imageSize: "100Gi", overprovisionRatio: 3}])' -f "$scratch/pools.yaml"
gives "the directories of pools are those of the host, at the same paths" '
    ([container("node").volumeMounts[] | select(.name | startswith("pool-directory-")) | .mountPath] | exactly(["/var/lib/windlass", "/data/windlass", "/srv/pools"]))
    and ([pod.volumes[] | select(.name | startswith("pool-directory-")) | .hostPath.path] | exactly(["/var/lib/windlass", "/data/windlass", "/srv/pools"]))' -f "$scratch/pools.yaml"
gives "a class asks for its pool, file system and more" '
    object("StorageClass"; "fast") | (.parameters | exactly({"csi.storage.k8s.io/fstype": "xfs", pool: "fast", logicalBlockSize: "512"}))
    and .mountOptions == ["noatime"] and .metadata.annotations["storageclass.kubernetes.io/is-default-class"] == "true"' -f "$scratch/pools.yaml"
gives "another kubelet directory is everywhere" '
    [pod.volumes[] | .hostPath.path // empty | select(contains("kubelet"))] | unique
    | exactly(["/var/snap/kubelet", "/var/snap/kubelet/plugins/csi.windlass.dev", "/var/snap/kubelet/plugins_registry"])' --set kubeletDirectory=/var/snap/kubelet
check "other pools are another pod" sh -c '[ "$(grep checksum/pools "$1")" != "$(grep checksum/pools "$2")" ]' _ "$scratch/given.yaml" <("$helm" template windlass "$chart" "${snapshots[@]}" -f "$scratch/pools.yaml")
openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=given -days 1 -out "$scratch/given.crt" 2>/dev/null
gives "a certificate of one's own is used, and none is made" '
    ([kinds("Secret")[] | select(.type == "kubernetes.io/tls")] == []) and ([pod.volumes[] | select(.name == "tls") | .secret.secretName] | exactly(["ours"]))
    and (object("SnapshotMetadataService"; "csi.windlass.dev").spec.caCert | @base64d | startswith("-----BEGIN CERTIFICATE-----"))' \
    "${metadata[@]}" --set snapshotMetadata.tls.existingSecret=ours --set-file "snapshotMetadata.tls.caCert=$scratch/given.crt"
gives "a cluster with the older API of changed blocks is told by that" \
    'object("SnapshotMetadataService"; "csi.windlass.dev").apiVersion == "cbt.storage.k8s.io/v1alpha1"' --api-versions cbt.storage.k8s.io/v1alpha1/SnapshotMetadataService

cat >"$scratch/protected.yaml" <<'VALUES'
repositories:
  - {name: offsite, secret: {name: offsite-repository, namespace: backups}}
protectedSecrets:
  - {namespace: shop, name: windlass-backup}
  - {namespace: bank, name: windlass-backup}
  - {namespace: shop, name: other}
storageClasses:
  - name: templated
    protection: {secret: "${pvc.namespace}/windlass-backup", schedule: hourly, keepHourly: 24, keepDaily: 7, restore: latestOrEmpty}
  - name: restores
    protection: {repositoryOf: offsite, restore: latestOrFail}
VALUES
gives "a protected class says how often, what is kept and by which Secret" '
    (object("StorageClass"; "templated").parameters == {protect: "hourly", keepHourly: "24", keepDaily: "7", restore: "latestOrEmpty",
        repositorySecret: "${pvc.namespace}/windlass-backup"})
    and (object("StorageClass"; "restores").parameters == {restore: "latestOrFail", repositorySecret: "backups/offsite-repository"})' \
    -f "$scratch/protected.yaml"
gives "the agent may get the Secrets of protected classes by their names, and no others" '
    [kinds("Role")[] | select(.metadata.name == "windlass-protection") | {(.metadata.namespace): .rules}] | add
    == {shop: [{apiGroups: [""], resources: ["secrets"], resourceNames: ["other", "windlass-backup"], verbs: ["get"]}],
        bank: [{apiGroups: [""], resources: ["secrets"], resourceNames: ["windlass-backup"], verbs: ["get"]}],
        backups: [{apiGroups: [""], resources: ["secrets"], resourceNames: ["offsite-repository"], verbs: ["get"]}]}' -f "$scratch/protected.yaml"

cat >"$scratch/repositories.yaml" <<'VALUES'
repositories:
  - {name: offsite, secret: {name: offsite-repository, namespace: backups}}
  - {name: near, secret: {name: near}}
  - {name: again, secret: {name: near}}
  - {name: other, secret: {name: other, namespace: backups}}
storageClasses:
  - {name: plain, fsType: ext4}
  - {name: restored, fsType: ext4, restoreFrom: offsite}
volumeSnapshotClasses:
  - {name: local, velero: true, default: true, deletionPolicy: Delete}
  - {name: offsite, export: {to: offsite}}
  - {name: near, deletionPolicy: Delete, velero: false, default: false, export: {to: near, repository: createIfMissing, localCopy: drop, chunkSize: 1Mi, verification: skip}}
VALUES
gives "a class that exports has its Secret for each call that needs one, and keeps what it made" '
    (object("VolumeSnapshotClass"; "offsite") | (.deletionPolicy == "Retain") and (.parameters | exactly({repository: "existing",
        "csi.storage.k8s.io/snapshotter-secret-name": "offsite-repository", "csi.storage.k8s.io/snapshotter-secret-namespace": "backups",
        "csi.storage.k8s.io/snapshotter-list-secret-name": "offsite-repository", "csi.storage.k8s.io/snapshotter-list-secret-namespace": "backups"})))
    and (object("VolumeSnapshotClass"; "near") | (.deletionPolicy == "Delete") and (.parameters | exactly({repository: "createIfMissing",
        localCopy: "drop", chunkSize: "1Mi", verification: "skip",
        "csi.storage.k8s.io/snapshotter-secret-name": "near", "csi.storage.k8s.io/snapshotter-secret-namespace": "windlass-system",
        "csi.storage.k8s.io/snapshotter-list-secret-name": "near", "csi.storage.k8s.io/snapshotter-list-secret-namespace": "windlass-system"})))
    and (object("VolumeSnapshotClass"; "local") | has("parameters") | not)' -f "$scratch/repositories.yaml"
gives "a class that exports has neither mark that Velero looks for" '
    [kinds("VolumeSnapshotClass")[] | select((.metadata.labels | has("velero.io/csi-volumesnapshot-class"))
        or (.metadata.annotations // {} | has("snapshot.storage.kubernetes.io/is-default-class"))) | .metadata.name] | exactly(["local"])' -f "$scratch/repositories.yaml"
gives "a class of volumes is given the Secret that it restores from, and the others none" '
    (object("StorageClass"; "restored").parameters | exactly({"csi.storage.k8s.io/fstype": "ext4",
        "csi.storage.k8s.io/provisioner-secret-name": "offsite-repository", "csi.storage.k8s.io/provisioner-secret-namespace": "backups"}))
    and (object("StorageClass"; "plain").parameters | exactly({"csi.storage.k8s.io/fstype": "ext4"}))' -f "$scratch/repositories.yaml"
gives "the Secrets of repositories may be got by their names, where they are, and no other" "$secrets"' | exactly([
    "Role backups windlass-repositories: get secrets offsite-repository other", "Role windlass-system windlass-repositories: get secrets near"])' -f "$scratch/repositories.yaml"
gives "each of these rights is the account of the sidecars alone" '
    [kinds("RoleBinding")[] | select(.metadata.name == "windlass-repositories") | "\(.metadata.namespace) \(.roleRef.kind) \(.roleRef.name) \(.subjects[] | .namespace + "/" + .name)"]
    | exactly(["backups Role windlass-repositories windlass-system/windlass-node", "windlass-system Role windlass-repositories windlass-system/windlass-node"])' -f "$scratch/repositories.yaml"

## Bad input: a sentence that says what is wrong, and nothing rendered

# refuses WORDS ARGUMENT...: the chart is not rendered, and says why with these words.
refuses() {
    local wanted=$1 output
    shift
    output=$(render "$@" 2>&1 >"$scratch/rendered") && { echo "it was rendered"; return 1; }
    [ ! -s "$scratch/rendered" ] || { echo "something was rendered"; return 1; }
    grep -qF -- "$wanted" <<<"$output" || { echo "said: $output"; return 1; }
}
values() { printf '%s\n' "$1" >"$scratch/bad.yaml"; }

check "no snapshot API" refuses "this cluster has no snapshot API"
check "no API for changed blocks that were asked for" refuses "SnapshotMetadataService API" "${snapshots[@]}" --set snapshotMetadata.enabled=always
check "an old Kubernetes" refuses "chart requires kubeVersion: >=1.33.0-0" "${snapshots[@]}" --kube-version 1.32.9
check "an unknown value" refuses "replicas" "${snapshots[@]}" --set replicas=2
check "an unknown profile" refuses "/profile" "${snapshots[@]}" --set profile=cluster
check "no pool" refuses "/pools" "${snapshots[@]}" --set-json 'pools=[]'
check "a pool without a name" refuses "/pools/0" "${snapshots[@]}" --set-json 'pools=[{"directory":"/data"}]'
check "a name of a pool that is none" refuses "/pools/0/name" "${snapshots[@]}" --set-json 'pools=[{"name":"Fast","directory":"/data"}]'
check "a pool with two places" refuses "pools[0] (a): give exactly one of directory, image and device" "${snapshots[@]}" --set-json 'pools=[{"name":"a","directory":"/data","device":"/dev/sdb"}]'
check "a pool with no place" refuses "pools[1] (b): give exactly one of directory, image and device" "${snapshots[@]}" --set-json 'pools=[{"name":"a","directory":"/data"},{"name":"b"}]'
check "an image without a size" refuses "pools[0] (a): an image needs an imageSize" "${snapshots[@]}" --set-json 'pools=[{"name":"a","image":"/data/a.img"}]'
check "a size of a device" refuses "pools[0] (a): imageSize is of an image" "${snapshots[@]}" --set-json 'pools=[{"name":"a","device":"/dev/sdb","imageSize":"1Gi"}]'
check "a decimal size" refuses "/pools/0/imageSize" "${snapshots[@]}" --set-json 'pools=[{"name":"a","image":"/data/a.img","imageSize":"1GB"}]'
check "a path that is relative" refuses "/pools/0/directory" "${snapshots[@]}" --set-json 'pools=[{"name":"a","directory":"data"}]'
check "a device that is none" refuses "/pools/0/device" "${snapshots[@]}" --set-json 'pools=[{"name":"a","device":"/data/sdb"}]'
check "an overprovision ratio below one" refuses "/pools/0/overprovisionRatio" "${snapshots[@]}" --set-json 'pools=[{"name":"a","directory":"/data","overprovisionRatio":0.5}]'
check "a node glob with a bracket" refuses "/pools/0/nodes/0" "${snapshots[@]}" --set-json 'pools=[{"name":"a","directory":"/data","nodes":["n[12]"]}]'
check "a misspelt field of a pool" refuses "direktory" "${snapshots[@]}" --set-json 'pools=[{"name":"a","direktory":"/data"}]'
check "a file system that is unknown" refuses "/storageClasses/0/fsType" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","fsType":"zfs"}]'
check "a class for a pool that is not there" refuses "storageClasses: a asks for pool fast, but pools has only default" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","pool":"fast"}]'
check "an unknown parameter of a class" refuses "/storageClasses/0/parameters" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","parameters":{"color":"red"}}]'
check "two classes of a name" refuses "storageClasses: a is there twice" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a"},{"name":"a"}]'
check "two default classes" refuses "storageClasses: only one can be the default, not a and b" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","default":true},{"name":"b","default":true}]'
check "two default snapshot classes" refuses "volumeSnapshotClasses: only one can be the driver's default, not a and b" "${snapshots[@]}" \
    --set-json 'volumeSnapshotClasses=[{"name":"a","deletionPolicy":"Delete","default":true},{"name":"b","deletionPolicy":"Delete","default":true}]'
check "two snapshot classes for Velero" refuses "Velero would take any of a and b" "${snapshots[@]}" \
    --set-json 'volumeSnapshotClasses=[{"name":"a","deletionPolicy":"Delete","velero":true},{"name":"b","deletionPolicy":"Delete","velero":true}]'
export_of() { printf 'volumeSnapshotClasses=[%s]' "$1"; }
repository='repositories=[{"name":"r","secret":{"name":"s"}}]'
check "a repository without a Secret" refuses "/repositories/0" "${snapshots[@]}" --set-json 'repositories=[{"name":"r"}]'
check "a Secret whose namespace is a template" refuses "/repositories/0/secret/namespace" "${snapshots[@]}" --set-json 'repositories=[{"name":"r","secret":{"name":"s","namespace":"${pvc.namespace}"}}]'
check "two repositories of a name" refuses "repositories: r is there twice" "${snapshots[@]}" --set-json 'repositories=[{"name":"r","secret":{"name":"s"}},{"name":"r","secret":{"name":"t"}}]'
check "an export to nowhere" refuses "volumeSnapshotClasses: a exports to x, but repositories has only r" "${snapshots[@]}" --set-json "$repository" --set-json "$(export_of '{"name":"a","export":{"to":"x"}}')"
check "an export where no repository is" refuses "volumeSnapshotClasses: a exports to x, but repositories has only none" "${snapshots[@]}" --set-json "$(export_of '{"name":"a","export":{"to":"x"}}')"
check "an export of Velero's snapshots" refuses "volumeSnapshotClasses: a exports, so it can be neither Velero's nor the default" "${snapshots[@]}" --set-json "$repository" --set-json "$(export_of '{"name":"a","velero":true,"export":{"to":"r"}}')"
check "an export by default" refuses "volumeSnapshotClasses: a exports, so it can be neither Velero's nor the default" "${snapshots[@]}" --set-json "$repository" --set-json "$(export_of '{"name":"a","default":true,"export":{"to":"r"}}')"
check "a way to keep the local copy that is none" refuses "/volumeSnapshotClasses/0/export/localCopy" "${snapshots[@]}" --set-json "$repository" --set-json "$(export_of '{"name":"a","export":{"to":"r","localCopy":"maybe"}}')"
check "a size of chunks that is none" refuses "/volumeSnapshotClasses/0/export/chunkSize" "${snapshots[@]}" --set-json "$repository" --set-json "$(export_of '{"name":"a","export":{"to":"r","chunkSize":"3Mi"}}')"
check "a snapshot class that does not say what becomes of its snapshots" refuses "volumeSnapshotClasses: a needs a deletionPolicy" "${snapshots[@]}" --set-json "$(export_of '{"name":"a"}')"
check "a restore from nowhere" refuses "storageClasses: a restores from x, but repositories has only none" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","restoreFrom":"x"}]'
check "a protection that keeps nothing" refuses "storageClasses: the protection of a must say how many exports are kept" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","protection":{"secret":"a/b","schedule":"daily"}}]'
check "a protection without a Secret" refuses "storageClasses: the protection of a needs either repositoryOf" "${snapshots[@]}" --set-json 'storageClasses=[{"name":"a","protection":{"restore":"latestOrFail"}}]'
check "parameters of a snapshot class that the chart does not write itself" refuses "/volumeSnapshotClasses/0" "${snapshots[@]}" \
    --set-json 'volumeSnapshotClasses=[{"name":"a","deletionPolicy":"Delete","parameters":{"csi.storage.k8s.io/snapshotter-secret-name":"s"}}]'
check "a deletion policy that is none" refuses "/volumeSnapshotClasses/0/deletionPolicy" "${snapshots[@]}" --set-json 'volumeSnapshotClasses=[{"name":"a","deletionPolicy":"Keep"}]'
check "a Secret of one's own whose authority nobody knows" refuses "snapshotMetadata.tls: clients need the authority of Secret ours" "${snapshots[@]}" "${metadata[@]}" --set snapshotMetadata.tls.existingSecret=ours
check "an authority that is no certificate" refuses "/snapshotMetadata/tls/caCert" "${snapshots[@]}" --set snapshotMetadata.tls.caCert=x
check "a kubelet directory that is relative" refuses "/kubeletDirectory" "${snapshots[@]}" --set kubeletDirectory=kubelet
check "a port of the metrics that a sidecar has" refuses "/metrics/port" "${snapshots[@]}" --set metrics.enabled=true --set metrics.port=8082
check "a verbosity that is none" refuses "/sidecars/logLevel" "${snapshots[@]}" --set sidecars.logLevel=high

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
