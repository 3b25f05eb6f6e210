#!/usr/bin/env bash
# Runs Kubernetes' tests of storage drivers in the cluster that is up, with the driver in it, by the definition in driver.yaml. Ends with
# `N passed, N failed`. To be called by e2e/cluster/with-cluster.
#
#   e2e/suite/run.sh [REGEX]     only tests whose names match
set -euo pipefail
cd "$(dirname "$0")/../.."
. e2e/cluster/env.sh
. e2e/checks.sh

tools=$(tools_of suite)
definition=$run/suite-driver.yaml
report=target/suite.json
# Fewer than so many that ran are a definition that declares too little, or is not understood.
least=38
# They wait most of the time, and the machine has few processors.
at_once=${WINDLASS_SPECS_AT_ONCE:-3}
limit=${WINDLASS_SUITE_LIMIT:-90m}

# What is not run, and why not.
left_out=(
    # Stops kubelets by ssh to the node. scenarios/alone has kills of our own.
    '\[Disruptive\]'
    # Needs a kernel with SELinux.
    '\[Feature:SELinux\]'
    # Fetches and builds a program in a pod. scenarios/together/changed-blocks has a client of the same library.
    '\[Feature:snapshotmetadata\]'
    # Needs an image of a populator, which only a registry has.
    'any volume data source'
    Windows ntfs
)

# images NAME ARGUMENT...: an image under each name of the suite's own that ends so, whatever its version, for both nodes.
images() {
    local wanted=$1 name links=() program archive=$run/suite-$1.tar
    shift
    for program in $(/bin/busybox --list); do [[ $program = busybox || " $* " = *":/bin/$program "* ]] || links+=(--link "busybox:/bin/$program"); done
    for name in $("$tools/e2e.test" -list-images | grep "/e2e-test-images/$wanted:"); do
        python3 e2e/cluster/oci-image.py "$name" "$archive" /bin/busybox:/bin/busybox "$@" "${links[@]}" --directory tmp:1777 >/dev/null
        e2e/cluster/images.sh add "$archive"
    done
    rm -f "$archive"
}

known_capabilities() {
    local name
    for name in $(sed -n '/^  Capabilities:/,/^  [A-Z]/s/^    \([A-Za-z]*\):.*/\1/p' e2e/suite/driver.yaml); do
        grep -qE "Capability = \"$name\"" "$framework" || { echo "the suite knows no capability $name"; return 1; }
    done
}
# A test that was not chosen has no message; one that skipped itself says why.
chosen='[.[].SpecReports[] | select(.LeafNodeType == "It" and (.State != "skipped" or (.Failure.Message // "") != ""))]'
named() { jq -r "$chosen"' | .[] | select(.State as $state | $states | index($state))
    | ((.ContainerHierarchyTexts | .[1:]) + [.LeafNodeText] | join(" ")) + "\t" + ((.Failure.Message // "") | gsub("\\s+"; " ") | .[0:300])' --argjson states "$1" "$report"; }
enough() { [ "$ran" -ge "$least" ] || { echo "only $ran tests ran; $least must"; return 1; }; }

framework=$(cd e2e/tools/suite && PATH=$PATH:/usr/local/go/bin go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/e2e/storage/framework/testdriver.go
check "the suite knows every capability that the definition names" known_capabilities
images agnhost "$tools/agnhost:/agnhost" --entrypoint '["/agnhost"]' --command '["pause"]'
# What is run in these is a shell and its commands.
for name in busybox nginx; do images $name --command '["sh"]'; done
# There dd is that of GNU, and the shell one that does not take its own instead.
images glibc-dns-testing /bin/dd:/bin/dd /bin/dash:/bin/sh $(ldd /bin/dd /bin/dash | sed -n 's#^[^/]*\(/[^ ]*\) (.*#\1:\1#p' | sort -u) --command '["sh"]'

# The node's keys: its name, and each of its pools, whose ids are made with them.
{
    cat e2e/suite/driver.yaml
    cluster_kubectl get csinode node1 -o json | jq -c '.spec.drivers[] | select(.name == "csi.windlass.dev") | .topologyKeys' | sed 's/^/  TopologyKeys: /'
} >"$definition"
# The suite takes every node that pods may be sent to for one with the driver. In this cluster one is none.
cluster_kubectl cordon node2 >/dev/null
trap 'cluster_kubectl uncordon node2 >/dev/null' EXIT

begin=$SECONDS
"$tools/ginkgo" run --procs="$at_once" --no-color --timeout="$limit" --json-report="$(basename "$report")" --output-dir="$(dirname "$report")" \
    --focus="External.Storage.*(${1-})" --skip="$(IFS='|'; printf '%s' "${left_out[*]}")" "$tools/e2e.test" -- \
    -kubeconfig="$KUBECONFIG" -provider=skeleton -storage.testdriver="$definition" >"$run/log/suite.log" 2>&1 || true

ran=$(named '["passed", "failed", "timedout", "panicked", "aborted", "interrupted"]' | wc -l)
while IFS=$'\t' read -r name _; do
    passed=$((passed + 1))
    printf 'passed: %s\n' "$name"
done < <(named '["passed"]')
while IFS=$'\t' read -r name message; do
    failed=$((failed + 1))
    printf 'FAILED: %s\n    %s\n' "$name" "$message"
done < <(named '["failed", "timedout", "panicked", "aborted", "interrupted"]')
[ "$ran" -gt 0 ] || tail -n 20 "$run/log/suite.log"
[ $# -gt 0 ] || check "at least $least tests ran" enough
printf 'why %s tests skipped themselves:\n' "$(named '["skipped"]' | wc -l)"
named '["skipped"]' | cut -f 2 | sort | uniq -c | sort -rn
printf 'the suite took %d s\n%d passed, %d failed\n' "$((SECONDS - begin))" "$passed" "$failed"
[ "$failed" = 0 ]
