#!/usr/bin/env bash
# Lays out what an image holds besides Debian's packages. Run in the project's directory, with cargo.
#
#   deploy/image/assemble.sh BINARY PACKAGES OUT
#
# PACKAGES is the list of Debian's packages that the image's runtime stage leaves (Dockerfile).
set -euo pipefail

binary=$1 packages=$2 out=$3
rm -rf "$out"
mkdir -p "$out"/usr/bin "$out"/usr/share/doc/windlass
strip --strip-debug -o "$out/usr/bin/windlass" "$binary"
chmod 755 "$out/usr/bin/windlass"
install -m 644 LICENSE "$out/usr/share/doc/windlass/LICENSE"
# The crates that are linked into the binary, without those that only tests use.
cargo tree --locked --package windlass --edges normal,build --target "$(rustc -vV | sed -n 's/^host: //p')" --prefix none --format '{p}|{l}' |
    python3 "$(dirname "$0")/sbom.py" Cargo.lock "$packages" /etc/os-release >"$out/usr/share/doc/windlass/sbom.cdx.json"
