#!/usr/bin/env bash
# Builds the image of the Dockerfile without a container engine and without a registry: the images that it starts from are made here, of
# Debian's packages and of this machine's Rust toolchain. Run as root; needs buildah and debootstrap.
#
#   deploy/image/build.sh [--inject BINARY] [--tag NAME:TAG] OUT
#   deploy/image/build.sh --prepare      makes the runtime stage only, which --inject then finds
#
# OUT becomes an image archive (OCI); OUT.sbom.json is the bill of materials that is in it. With --inject, BINARY is put into the same
# runtime stage in place of one that the build stage compiles: it has to be of this Debian release.
#
# Stages stay in ~/.cache/windlass-e2e/image: what the Dockerfile has not changed is not done again. It is made anew when a week old, for the
# sake of Debian's updates.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

say() { printf 'image: %s\n' "$*"; }
die() { printf 'image: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "this needs root"
for program in buildah debootstrap strip python3; do command -v "$program" >/dev/null || die "$program is missing (e2e/setup.sh image)"; done
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"

binary='' tag='' out='' prepare=no
while [ $# -gt 0 ]; do
    case $1 in
        --inject) binary=$(realpath "$2"); shift 2 ;;
        --tag) tag=$2; shift 2 ;;
        --prepare) prepare=yes; shift ;;
        -*) die "there is no option $1" ;;
        *) out=$(realpath -m "$1"); shift ;;
    esac
done
[ -n "$out" ] || [ "$prepare" = yes ] || die "usage: $0 [--inject BINARY] [--tag NAME:TAG] OUT | --prepare"
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
tag=${tag:-docker.io/library/windlass:$version}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
release=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
[ -n "$release" ] || die "this is no release of Debian, whose packages the image is made of"

cache=${WINDLASS_TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/windlass-e2e}/image
mkdir -p "$cache"
exec 9>"$cache.lock"
flock -w 1800 9 || die "another build of an image has run for half an hour"
[ -z "$(find "$cache" -maxdepth 1 -name made -mtime +7)" ] || { say "what was kept is a week old"; rm -rf "$cache"; mkdir -p "$cache"; }
[ -e "$cache/made" ] || touch "$cache/made"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay
# Short: its sockets and mounts have names that are limited.
running=$(mktemp -d /tmp/windlass-image.XXXXXX)
trap 'rm -rf "$running"' EXIT
build() { buildah --root "$cache/storage" --runroot "$running/run" "$@"; }
has() { build inspect --type image "$1" >/dev/null 2>&1; }

# Of a run that was killed.
build rm --all >/dev/null 2>&1 || true

debian=docker.io/library/debian:$release-slim
make_debian() {
    local mirror
    mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
    mirror=${mirror:-$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' /etc/apt/sources.list)}
    say "making $debian"
    debootstrap --variant=minbase "$release" "$running/debian" $mirror >"$running/debootstrap.log" 2>&1 \
        || { tail -n 5 "$running/debootstrap.log" >&2; die "debootstrap failed"; }
    # What a slim image leaves out, now and in packages to come.
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale groff lintian >"$running/debian/etc/dpkg/dpkg.cfg.d/slim"
    printf 'path-include /usr/share/doc/*/copyright\n' >>"$running/debian/etc/dpkg/dpkg.cfg.d/slim"
    find "$running/debian"/usr/share/{man,info,locale,groff,lintian} -mindepth 1 -delete 2>/dev/null || true
    find "$running/debian/usr/share/doc" ! -type d ! -name copyright -delete
    rm -rf "$running/debian"/var/{cache/apt,lib/apt/lists,log}/*
    # Security updates come from where this machine has them.
    if [ -e /etc/apt/sources.list.d/debian.sources ]; then
        cp /etc/apt/sources.list.d/debian.sources "$running/debian/etc/apt/sources.list.d/"
        : >"$running/debian/etc/apt/sources.list"
    fi
    local container
    container=$(build from scratch)
    build add "$container" "$running/debian" / >/dev/null
    build config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd '["bash"]' "$container"
    build commit --quiet --rm "$container" "$debian" >/dev/null
    rm -rf "$running/debian"
}

# The stage that compiles: Debian's compiler. Rust as this machine has it is mounted while it does.
toolchain=$(rustc --print sysroot)
rust=docker.io/library/rust:$(sed -n 's,^FROM .*/rust:\([0-9.]*\)-.*,\1,p' Dockerfile)-$release
make_rust() {
    local container
    say "making $rust"
    container=$(build from --pull-never "$debian")
    build run --network host "$container" -- sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends build-essential ca-certificates git python3 >/dev/null && rm -rf /var/lib/apt/lists/*'
    # Whom this machine trusts; only this stage has it, and nothing of it comes into the image.
    build copy "$container" "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" /etc/ssl/certs/ca-certificates.crt >/dev/null
    build config --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    build commit --quiet --rm "$container" "$rust" >/dev/null
}

# bud ARGUMENT...: builds stages of the Dockerfile.
bud() {
    build bud --pull-never --network host --layers --quiet --volume "$toolchain:/usr/local/rust:ro" --build-arg "DEBIAN=$release" --build-arg "VERSION=$version" \
        --build-arg "REVISION=$revision" "$@" . >/dev/null
}

has "$debian" || make_debian
injected=()
if [ -n "$binary" ] || [ "$prepare" = yes ]; then
    say "the runtime stage"
    bud --target runtime --tag windlass-runtime
    [ "$prepare" = no ] || exit 0
    container=$(build from --pull-never localhost/windlass-runtime)
    packages=$(build mount "$container")/usr/share/windlass-packages
    cp "$packages" "$running/packages"
    build rm "$container" >/dev/null
    mkdir "$running/inject"
    deploy/image/assemble.sh "$binary" "$running/packages" "$running/inject/image"
    injected=(--build-context "build=$running/inject")
else
    has "$rust" || make_rust
fi
say "the image $tag"
bud ${injected[@]+"${injected[@]}"} --tag "$tag"
container=$(build from --pull-never "$tag")
mkdir -p "$(dirname "$out")"
cp "$(build mount "$container")/usr/share/doc/windlass/sbom.cdx.json" "$out.sbom.json"
build rm "$container" >/dev/null
rm -f "$out"
build push --quiet "$tag" "oci-archive:$out:$tag"
say "$out, $(du -h "$out" | cut -f1)"
