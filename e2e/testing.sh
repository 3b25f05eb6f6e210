# To be sourced, in the project's directory, by what runs tests: how they are built, how their output is kept, which share is run.
#
# Everything that is printed is also in the file that `log` names. Some of its lines are for e2e/summary.sh:
#
#   == NAME                  what follows is of NAME: a stage or a test file
#   == NAME took N s         its end; stages first say `stage`: `== stage build took 300 s`
#   !! TEXT                  something failed that is no test; what follows it and begins with `!!  ` says why

# One set of features, for lints, host and virtual machine, so that nothing is built twice. Failure injection does nothing unless the
# environment asks for it.
features=root-tests,failpoints,thin-tests
[ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=${RUST_BACKTRACE:-1}
# A machine that builds once has no use for what makes the next build quick.
[ -z "${CI-}" ] || export CARGO_INCREMENTAL=${CARGO_INCREMENTAL-0}

# Of the long tests one part in this many is run: tests/support/share.rs.
share_of=4

# choose_share sampled|full: which part of the long tests is run. One that the environment names already stays.
choose_share() {
    local commit
    if [ "$1" = full ]; then
        export WINDLASS_SHARE=
    elif [ -z "${WINDLASS_SHARE+set}" ]; then
        # It turns with the commit; without a repository, with the day.
        commit=$(git rev-parse HEAD 2>/dev/null) || commit=$(date +%j)
        export WINDLASS_SHARE=$((16#${commit:0:7}))/$share_of
    fi
    if [ -n "$WINDLASS_SHARE" ]; then
        say "of the long tests one part in ${WINDLASS_SHARE#*/} is run; for the same again: WINDLASS_SHARE=$WINDLASS_SHARE"
    else
        say "all of the long tests is run"
    fi
}

say() { printf '%s\n' "$*" | tee -a "$log"; }

# broke TEXT [WHY]: counts as a failure; the last lines of WHY are shown with it at the end.
broke() {
    say "!! $1"
    [ -z "${2-}" ] || printf '%s\n' "$2" | tail -n 15 | cut -c 1-300 | sed 's/^/!!  /' | tee -a "$log"
}

# section NAME: what the log holds of a test file.
section() {
    awk -v begin="== $1" '$0 == begin { inside = 1; next } /^== / { inside = 0 } inside' "$log"
}

# stage NAME COMMAND...: says how long a command took.
stage() {
    local name=$1 begin=$SECONDS status
    shift
    "$@"
    status=$?
    say "== stage $name took $((SECONDS - begin)) s"
    return "$status"
}

# build_tests ARGUMENT...: builds what the arguments of cargo choose; `executables` then holds lines such as
# `tests/root_demo.rs target/debug/deps/root_demo-0123`, in the order of the build.
build_tests() {
    local output
    say "== build"
    if ! output=$(cargo test --workspace --features "$features" "$@" --no-run 2>&1); then
        say "$output"
        broke "the tests could not be built" "$(grep -A 6 -E '^error' <<<"$output" | head -n 15)"
        return 1
    fi
    executables=$(sed -n 's/^ *Executable \(unittests \)\?\([^ ]*\) (\(.*\))$/\2 \3/p' <<<"$output")
    # Warnings are for the lints.
    [ -n "$executables" ] || { broke "no tests were built" "$output"; return 1; }
}
