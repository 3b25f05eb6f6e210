#!/usr/bin/env bash
# Measures thin pools beside lvm2, dmsetup and thin_delta in the virtual machine, prints the table and leaves the figures in
# target/bench/thin.json. The machine is emulated where there is no KVM: only the ratios are worth anything.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"

e2e/setup.sh thin
cargo build --release -p windlass-bench
. e2e/target.sh
bench=$target/release/windlass-bench
out=$target/bench/thin-machine
mkdir -p "$out"
# One blank disk for each tool; the difference's volume is 100 GiB, of which 1 % is mapped.
e2e/vm/run --disk 120G --disk 20G --disk 20G --put "$bench" --memory 3072 --limit 1800 --out "$out" -- bash -c "
    IFS=:; set -- \$WINDLASS_VM_DISKS
    $bench thin --disk \$1 --disk \$2 --disk \$3 --result \$WINDLASS_VM_OUT/thin.json"
cp "$out/thin.json" "$target/bench/thin.json"
