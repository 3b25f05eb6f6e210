#!/usr/bin/env bash
# Builds the programs of a cluster from the Go modules beneath e2e/tools, whose go.sum pins every byte: Kubernetes, stock sidecars, helm,
# CoreDNS, container runtime, etcd.
#
#   e2e/cluster/build.sh [MODULE...]     all modules, or those named; says how long each took
#
# What is built stays in ~/.cache/windlass-e2e/MODULE-HASH, outside of the checkout: a fresh clone on the same machine builds nothing. The hash
# is over all that the programs are made of: go.mod, go.sum, sources of ours, the version of the compiler, the flags. A directory appears
# under its name only when it is whole, so a build that is killed leaves nothing that is taken for built. One build runs at a time; another
# that is started meanwhile waits for it and then finds it done. Nothing here needs root.
#
# The first build takes some 20 minutes of one processor. It is meant to run beside something else: nice -n 19 e2e/cluster/build.sh &
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"

# Longer than any of them takes on a busy machine; a build that hangs must not hang everything.
limit=80m
# What was used by nothing for so many days is removed.
keep_days=14

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
[ -x /usr/local/go/bin/go ] && PATH="$PATH:/usr/local/go/bin"
command -v go >/dev/null || die "go is missing (e2e/setup.sh e2e)"
# A module asks for the compiler that it needs; one that is too old fetches it.
export GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN=${GOTOOLCHAIN:-auto}

# programs MODULE: which to build.
programs() {
    go list -f '{{.ImportPath}}' tool
    # Programs of ours in the same module.
    [ -z "$(find . -name '*.go' -print -quit)" ] || go list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' ./...
}

# compile OUT FLAGS PROGRAM...
compile() {
    local out=$1 flags=$2
    shift 2
    timeout "$limit" go build -buildvcs=false -trimpath -ldflags "-s -w $flags" -o "$out" "$@"
}

# compile_test OUT FLAGS PACKAGE: the tests of a package, as a program.
compile_test() { timeout "$limit" go test -c -buildvcs=false -trimpath -ldflags "-s -w $2" -o "$1" "$3"; }

# manifests OUT MODULE PATTERN...: objects of the cluster's own that come with a module's sources.
manifests() {
    local out=$1/manifests directory
    directory=$(go list -m -f '{{.Dir}}' "$2")
    shift 2
    mkdir -p "$out"
    for pattern in "$@"; do install -m 644 "$directory"/$pattern "$out/" || return 1; done
}

# kubernetes_flags: without its version the server says none that kubectl can read.
kubernetes_flags() {
    local version package=k8s.io/component-base/version
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes) || return 1
    printf -- '-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s' $package "$version" $package $package "$(cut -d. -f2 <<<"$version")"
}

# Called where a failure is looked at, which is why each step says what becomes of its own.
build_module() {
    local module=$1 out=$2 flags version
    export CGO_ENABLED=0
    case $module in
        kubernetes)
            flags=$(kubernetes_flags) || return 1
            compile "$out/" "$flags" $(programs) || return 1
            manifests "$out" github.com/kubernetes-csi/external-snapshotter/client/v8 'config/crd/*_*.yaml' || return 1
            manifests "$out" github.com/kubernetes-csi/external-snapshotter/v8 deploy/kubernetes/snapshot-controller/rbac-snapshot-controller.yaml
            ;;
        snapshot-metadata)
            compile "$out/" '' $(programs) || return 1
            compile_test "$out/block-mover.test" '' ./block-mover || return 1
            manifests "$out" github.com/kubernetes-csi/external-snapshot-metadata/client 'config/crd/*.yaml'
            ;;
        container-runtime)
            compile "$out/" '' $(programs | grep -v -e opencontainers/runc -e etcd) || return 1
            compile "$out/etcd" '' go.etcd.io/etcd/server/v3 || return 1
            # The one that needs C: without seccomp no pod starts.
            CGO_ENABLED=1 timeout "$limit" go build -buildvcs=false -trimpath -tags seccomp -ldflags '-s -w' -o "$out/runc" \
                github.com/opencontainers/runc
            ;;
        velero)
            version=$(go list -m -f '{{.Version}}' github.com/vmware-tanzu/velero) || return 1
            compile "$out/" "-X github.com/vmware-tanzu/velero/pkg/buildinfo.Version=$version" $(programs)
            ;;
        # Of promtool's what finds the targets of clouds is most, and not needed to test rules.
        prometheus) GOFLAGS="$GOFLAGS -tags=remove_all_sd" compile "$out/" '' $(programs) ;;
        minio) compile "$out/" '' $(programs) ;;
        suite)
            compile "$out/" '' $(go list tool) || return 1
            flags=$(kubernetes_flags) || return 1
            compile_test "$out/e2e.test" "$flags" k8s.io/kubernetes/test/e2e
            ;;
        *) die "nothing is known of module $module" ;;
    esac
}

mkdir -p "$tools_cache"
exec 9>"$tools_cache/lock"
flock 9
for module in ${@:-$tool_modules}; do
    [ -e "$tools_source/$module/go.mod" ] || die "there is no module $module"
    out=$(tools_of "$module")
    if [ -d "$out" ]; then
        touch "$out"
        continue
    fi
    begin=$SECONDS
    rm -rf "$tools_cache/$module".building
    mkdir "$tools_cache/$module.building"
    (cd "$tools_source/$module" && build_module "$module" "$tools_cache/$module.building") || die "$module could not be built"
    mv "$tools_cache/$module.building" "$out"
    printf '== built %s in %s s\n' "$module" "$((SECONDS - begin))"
done
find "$tools_cache" -mindepth 1 -maxdepth 1 -type d -mtime "+$keep_days" -exec rm -rf {} +
