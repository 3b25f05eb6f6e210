#!/usr/bin/env bash
# Builds the tests that need device-mapper, runs them in a virtual machine, and ends with one line: `N passed, N failed`.
#
#   e2e/run-thin-tests.sh [sampled|full] [FILE [TEST]]
#
# FILE is a part of the names of the test files wanted (tests/thin_*.rs, tests/thin_*/main.rs), TEST a part of the names of the tests in
# them. What takes long is run whole, unless `sampled` says that a share of it will do (e2e/testing.sh). e2e/vm/run runs any other command
# in such a machine.
#
# A test file may say what it needs, in a line that begins with `// vm:`
#
#   // vm: disks=1G,4G memory=3072 limit=900 keep
#
# disks    its disks, blank; their nodes are in WINDLASS_VM_DISKS, with colons between (none)
# memory   of the machine, in MiB (2048)
# limit    how long the file's tests may take, in seconds (600)
# keep     disks and /out stay in target/thin/FILE until the end, for tests that look at them on this machine
#
# Files that ask for no disks share one machine. Then tests/root_power_*.rs run on this machine: they replay what the machines
# left beneath WINDLASS_VM_KEPT. Each says in such a line which file leaves it: `// vm: replays=thin_power_cut`. With
# WINDLASS_VM_KEEP=1 it stays there after the end, for replays by hand.
#
# Everything printed is also in target/thin-test.log, the kernels' messages are in target/thin/FILE/console.log.
#
# e2e/run-tests.sh calls it as `e2e/run-thin-tests.sh --beside EXECUTABLES FILE TEST`: the machine is set up, the tests are built, as the
# lines of the file EXECUTABLES say, others run at the same time, and the caller counts what came of it all.
set -uo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."

share=full
built=
patience=1
case ${1-} in
    sampled | full) share=$1; shift ;;
    # The same takes longer when this machine has other work.
    --beside) built=$2 patience=2; shift 2 ;;
esac
files=${1:-}
filter=${2:-}
. e2e/target.sh
log=$target/thin-test.log
kept=$target/thin
. e2e/testing.sh
mkdir -p "$target" "$kept"
: >"$log"

scratch=
cleanup() {
    # Whoever ends a group ends it twice.
    trap '' INT TERM
    [ -z "$scratch" ] || rm -rf "$scratch"
    # Gigabytes, and of no use without the tests that were to look at them.
    [ -n "${WINDLASS_VM_KEEP-}" ] || rm -f "$kept"/*/disk*
}
trap cleanup EXIT
trap 'exit 130' INT TERM

end() {
    say "== the virtual machines are done"
    [ -z "$built" ] || exit 0
    e2e/summary.sh "$log" 0
    exit
}
give_up() {
    broke "$@"
    end
}

[ "$(id -u)" = 0 ] || give_up "the replays mount file systems: run this as root"

# need SOURCE WORD DEFAULT: what the file's header says about WORD.
need() {
    local header
    header=$(sed -n 's,^// vm:,,p' "$1" | head -n 1)
    for header in $header; do
        case $header in
            "$2") printf 'yes\n'; return ;;
            "$2="*) printf '%s\n' "${header#*=}"; return ;;
        esac
    done
    printf '%s\n' "$3"
}

# name_of SOURCE: of the test, and of where its machine leaves things: tests/NAME.rs or tests/NAME/main.rs.
name_of() {
    local name=${1#tests/}
    name=${name%/main.rs}
    printf '%s\n' "${name%.rs}"
}

wanted=()
replays=()
for source in tests/thin_*.rs tests/thin_*/main.rs tests/root_power_*.rs; do
    case $source in *"$files"*) ;; *) continue ;; esac
    case $source in tests/thin_*) wanted+=("$source") ;; *) replays+=("$source") ;; esac
done
# What is replayed has to be made first.
for source in ${replays[@]+"${replays[@]}"}; do
    made=tests/$(need "$source" replays '').rs
    [ -e "$made" ] || give_up "$source does not say which file leaves what it replays"
    [[ " ${wanted[*]-} " == *" $made "* ]] || wanted+=("$made")
done
[ ${#wanted[@]} -gt 0 ] || give_up "no test file has $files in its name"

set_up() { e2e/setup.sh thin 2>&1 | tee -a "$log"; }
if [ -n "$built" ]; then
    executables=$(cat "$built")
else
    choose_share "$share"
    stage "setup" set_up || give_up "the machine could not be set up" "$(tail -n 15 "$log")"
    targets=()
    for source in "${wanted[@]}" ${replays[@]+"${replays[@]}"}; do targets+=(--test "$(name_of "$source")"); done
    stage "build" build_tests "${targets[@]}" || end
fi
declare -A executable
while read -r source path; do executable[$source]=$(realpath "$path"); done <<<"$executables"
for source in "${wanted[@]}" ${replays[@]+"${replays[@]}"}; do
    [ -n "${executable[$source]-}" ] || give_up "$source was not built"
done

scratch=$(mktemp -d /tmp/windlass-thin.XXXXXX)

# One payload for all: the programs are at their own paths, the disks of file systems beneath them are shared and read-only.
any=${executable[${wanted[0]}]}
payload=("$(dirname "$(dirname "$any")")/windlass")
for source in "${wanted[@]}"; do payload+=("${executable[$source]}"); done
for tool in csi-sanity restic; do payload+=("$target/tools/$tool" "$(realpath "$target/tools/$tool")"); done
begin=$SECONDS
e2e/vm/payload "$scratch/payload.img" "${payload[@]}" || give_up "the payload could not be made"

# machine NAME MEMORY DISKS KEEP SOURCE...: the tests of some files in one machine.
machine() {
    local name=$1 memory=$2 disks=$3 keep=$4 limit=0 own source i=0 options=()
    shift 4
    mkdir -p "$kept/$name"
    rm -rf "${kept:?}/$name"/*
    for disk in ${disks//,/ }; do
        if [ "$keep" = yes ]; then
            truncate -s "$disk" "$kept/$name/disk$i"
            disk=$kept/$name/disk$i
        fi
        options+=(--disk "$disk")
        i=$((i + 1))
    done
    {
        # The root is an overlay, which promises direct I/O to loop devices and fails it.
        printf 'export RUST_BACKTRACE=1 WINDLASS_SCRATCH_DIR=/dev/shm\n'
        printf 'export WINDLASS_SHARE=%q\n' "${WINDLASS_SHARE-}"
        for source in "$@"; do
            own=$(($(need "$source" limit 600) * patience))
            limit=$((limit + own))
            printf 'echo "== %s"; begin=$SECONDS\n' "$source"
            printf 'timeout --kill-after 10 %s %q --show-output %q\n' "$own" "${executable[$source]}" "$filter"
            printf 'echo "== %s ended with status $?"\n' "$source"
            printf 'echo "== %s took $((SECONDS - begin)) s"\n' "$source"
        done
    } >"$scratch/script"
    # The machine's own start and end come on top.
    say "== machine $name"
    e2e/vm/run --payload "$scratch/payload.img" --memory "$memory" --limit "$((limit + 60 * patience))" --out "$kept/$name/out" \
        --console "$kept/$name/console.log" ${options[@]+"${options[@]}"} \
        -- bash -c "$(cat "$scratch/script")" </dev/null 2>&1 | tee -a "$log"
}

shared=()
for source in "${wanted[@]}"; do
    [ -n "$(need "$source" disks '')" ] || shared+=("$source")
done
if [ ${#shared[@]} -gt 0 ]; then
    memory=0
    for source in "${shared[@]}"; do
        own=$(need "$source" memory 2048)
        [ "$own" -le "$memory" ] || memory=$own
    done
    machine shared "$memory" '' no "${shared[@]}"
fi
for source in "${wanted[@]}"; do
    disks=$(need "$source" disks '')
    [ -n "$disks" ] || continue
    machine "$(name_of "$source")" "$(need "$source" memory 2048)" "$disks" "$(need "$source" keep no)" "$source"
done
say "== stage virtual machines took $((SECONDS - begin)) s"

# Replays sync file systems all the time, which costs nothing in memory. What they keep there is some hundred MiB each.
if [ -z "${TMPDIR-}" ] && [ "$(df --output=avail --block-size=1M /dev/shm 2>/dev/null | tail -n 1)" -ge 4096 ]; then
    export TMPDIR=/dev/shm
fi
replay() {
    local source begin
    for source in "${replays[@]}"; do
        begin=$SECONDS
        say "== $source"
        WINDLASS_VM_KEPT=$kept "${executable[$source]}" --show-output $filter </dev/null 2>&1 | tee -a "$log"
        say "== $source ended with status ${PIPESTATUS[0]}"
        say "== $source took $((SECONDS - begin)) s"
    done
}
[ ${#replays[@]} = 0 ] || stage "replays" replay

# A file counts as broken when it did not end, or ended badly without a summary of its own.
for source in "${wanted[@]}" ${replays[@]+"${replays[@]}"}; do
    outcome=$(awk -v begin="== $source" '
        $0 == begin { inside = 1 }
        inside && /^test result: / { result = 1 }
        index($0, begin " ended with status ") == 1 { print result ? "told" : "silent"; inside = 0 }' "$log")
    [ "$outcome" = told ] || broke "$source ended without a result" "$(section "$source")"
done
end
