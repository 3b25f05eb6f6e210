#!/usr/bin/env bash
# Makes a fresh Debian machine able to build, test and demonstrate this project. Run as root; quick when nothing is missing.
#
#   e2e/setup.sh build    what `make demo` needs: compiler, file system tools
#   e2e/setup.sh test     that, and the oracles of the tests: csi-sanity, two releases of restic, thin-provisioning-tools
#   e2e/setup.sh stores   the stores that `make test-full` tries: MinIO, which takes four minutes of a processor, and Azurite
#   e2e/setup.sh thin     that of `test`, and the virtual machine of the tests that need device-mapper (e2e/vm)
#   e2e/setup.sh image    what `make image` needs: that of `build`, and what makes images without a container engine
#   e2e/setup.sh e2e      that, and what a Kubernetes cluster needs here (e2e/cluster); its programs are built by e2e/cluster/build.sh
#   e2e/setup.sh fuzz     what `make build` needs, a nightly toolchain and cargo-fuzz
#   e2e/setup.sh bench-quick    what `make bench-quick` needs: that of `build`, and restic
#   e2e/setup.sh bench    that, and the other tools that are measured; one that cannot be had in time is left out
#
# Go programs are built into target/tools from the modules in e2e/tools, whose go.sum pins every byte.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/target.sh

wanted=${1:-test}
minimum_rust=1.95
minimum_go=1.25
cargo_fuzz=0.13.2

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# at_least HAVE WANTED: true when version HAVE is not older than WANTED.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

available() { apt-cache show "$1" >/dev/null 2>&1; }

updated=no
install_packages() {
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "these packages are missing, and only root can install them: ${missing[*]}"
    if [ "$updated" = no ]; then
        apt-get update -qq || die "apt-get update failed; these packages are missing: ${missing[*]}"
        updated=yes
    fi
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
        || die "apt-get could not install: ${missing[*]}"
}

rust_setup() {
    # rustup's own directory is not on the PATH of a non-login shell.
    [ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        [ "$updated" = yes ] || { [ "$(id -u)" = 0 ] && apt-get update -qq && updated=yes; } || true
        available rustup || die "cargo is missing and this distribution has no rustup package; install Rust $minimum_rust or newer"
        install_packages rustup
        say "installing the stable Rust toolchain"
        rustup default stable
    fi
    local version
    version=$(cargo --version | cut -d' ' -f2)
    at_least "$version" "$minimum_rust" || die "cargo $version is too old; Rust $minimum_rust or newer is needed (rustup update stable)"
    if [ "$wanted" = test ] || [ "$wanted" = thin ]; then
        cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 \
            || rustup component add rustfmt clippy \
            || die "rustfmt and clippy are missing (rustup component add rustfmt clippy)"
    fi
}

# The sanitizers and the coverage that fuzzing needs are of the nightly compiler only. What is fuzzed is built by it alone.
fuzz_setup() {
    command -v rustup >/dev/null || die "rustup is missing, and with it the nightly toolchain that fuzzing needs (https://rustup.rs)"
    if ! rustup run nightly rustc --version >/dev/null 2>&1; then
        say "installing the nightly Rust toolchain"
        rustup toolchain install nightly --profile minimal || die "the nightly toolchain could not be installed"
    fi
    local version
    version=$(rustup run nightly rustc --version | cut -d' ' -f2)
    at_least "${version%%-*}" "$minimum_rust" || die "nightly $version is too old (rustup update nightly)"
    if [ "$("$target/tools/cargo-fuzz/bin/cargo-fuzz" --version 2>/dev/null)" != "cargo-fuzz $cargo_fuzz" ]; then
        say "building cargo-fuzz"
        cargo install --quiet --locked --force --root "$target/tools/cargo-fuzz" --version "$cargo_fuzz" cargo-fuzz \
            || die "cargo-fuzz could not be built"
    fi
}

go_setup() {
    [ -x /usr/local/go/bin/go ] && PATH="$PATH:/usr/local/go/bin"
    command -v go >/dev/null || install_packages golang-go
    local version
    version=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
    at_least "$version" 1.21 || die "go $version is too old; $minimum_go or newer is needed (1.21 or newer fetches it by itself)"
    # From 1.21 on, go fetches the toolchain that a go.mod asks for, unless it is told not to.
    at_least "$version" "$minimum_go" || export GOTOOLCHAIN=auto
}

# Longer than any of them takes; a build that hangs must not hang everything.
build_limit=30m

# build_tool NAME PACKAGE: builds PACKAGE from module e2e/tools/NAME, once for each state of its go.sum.
build_tool() {
    local name=$1 package=$2 stamp=$target/tools/$1.stamp state
    state=$(cat "e2e/tools/$name/go.mod" "e2e/tools/$name/go.sum" | sha256sum)
    [ -x "$target/tools/$name" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && return 0
    say "building $name"
    mkdir -p "$target/tools"
    rm -f "$stamp"
    (cd "e2e/tools/$name" && timeout "$build_limit" go build -mod=readonly -buildvcs=false -trimpath -o "$target/tools/$name" "$package") \
        || die "$name could not be built"
    printf '%s\n' "$state" >"$stamp"
}

# install_azurite: the release, and all it needs, that the lock file of e2e/tools/azurite pins. Nothing of it runs while it is installed.
install_azurite() {
    local from=e2e/tools/azurite to=$target/tools/azurite state
    state=$(cat "$from/package.json" "$from/package-lock.json" | sha256sum)
    [ "$(cat "$to.stamp" 2>/dev/null)" = "$state" ] && return 0
    say "installing azurite"
    rm -rf "$to" "$to.stamp"
    mkdir -p "$to"
    cp "$from/package.json" "$from/package-lock.json" "$to"
    (cd "$to" && timeout "$build_limit" npm ci --silent --no-audit --no-fund --ignore-scripts) || die "azurite could not be installed"
    printf '%s\n' "$state" >"$to.stamp"
}

# build_rustic: the release named here, with exactly the versions of its own Cargo.lock.
build_rustic() {
    local version=0.11.4
    [ -x "$target/tools/rustic" ] && [ "$(cat "$target/tools/rustic.stamp" 2>/dev/null)" = "$version" ] && return 0
    say "building rustic"
    rm -rf "$target/rustic" "$target/tools/rustic.stamp"
    timeout "$build_limit" cargo install --quiet --locked --version "$version" --no-default-features --features mimalloc \
        --root "$target/rustic" --target-dir "$target/rustic/build" rustic-rs || die "rustic could not be built"
    mkdir -p "$target/tools"
    mv "$target/rustic/bin/rustic" "$target/tools/rustic"
    rm -rf "$target/rustic"
    printf '%s\n' "$version" >"$target/tools/rustic.stamp"
}

case $wanted in
    build | test | stores | thin | image | e2e | fuzz | bench | bench-quick) ;;
    *) die "usage: $0 [build|test|stores|thin|image|e2e|fuzz|bench|bench-quick]" ;;
esac
command -v apt-get >/dev/null || die "this is no Debian; see the package lists in $0"

install_packages build-essential ca-certificates git util-linux mount kmod e2fsprogs xfsprogs btrfs-progs
rust_setup
if [ "$wanted" = test ] || [ "$wanted" = thin ]; then
    install_packages restic fuse3 thin-provisioning-tools
    go_setup
    build_tool csi-sanity github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
    build_tool restic github.com/restic/restic/cmd/restic
fi
if [ "$wanted" = stores ]; then
    install_packages openssl
    go_setup
    build_tool minio github.com/minio/minio
    command -v node >/dev/null && command -v npm >/dev/null || install_packages nodejs npm
    install_azurite
fi
if [ "$wanted" = thin ]; then
    install_packages qemu-system-x86 busybox-static cpio xz-utils zstd binutils thin-provisioning-tools dmsetup lvm2 strace fdisk
    e2e/vm/build || die "the virtual machine could not be made"
fi
if [ "$wanted" = image ] || [ "$wanted" = e2e ]; then
    install_packages buildah crun debootstrap python3
fi
if [ "$wanted" = e2e ]; then
    install_packages busybox-static iproute2 jq libseccomp-dev nftables openssl pkg-config restic sqlite3
    go_setup
fi
if [ "$wanted" = fuzz ]; then
    fuzz_setup
    exit 0
fi
if [ "$wanted" = bench ] || [ "$wanted" = bench-quick ]; then
    go_setup
    build_tool restic github.com/restic/restic/cmd/restic
fi
if [ "$wanted" = bench ]; then
    # In shells of their own: one that cannot be had ends its shell, and the measurements go on without it.
    (install_packages thin-provisioning-tools) || say "thin_delta is left out"
    (install_packages borgbackup) || say "borg is left out"
    (build_tool kopia github.com/kopia/kopia) || say "kopia is left out"
    (build_tool minio github.com/minio/minio) || say "minio is left out, and the exporters that would share a bucket of it"
    (build_rustic) || say "rustic is left out"
fi

# The kernel's part, checked now because each of these would fail later and less clearly. A container or a kernel with
# everything built in has no modules to load.
if [ "$(id -u)" = 0 ]; then
    for module in loop xfs btrfs ext4 fuse; do
        modprobe -q "$module" 2>/dev/null || true
    done
    for file_system in ext4 xfs btrfs; do
        grep -qw "$file_system" /proc/filesystems || die "this kernel has no $file_system"
    done
    [ -e /dev/loop-control ] || die "this kernel has no loop devices (/dev/loop-control)"
fi
