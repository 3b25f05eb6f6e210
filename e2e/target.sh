# To be sourced: `target` is the directory, with its whole path, of all that is built and logged: cargo's, so CARGO_TARGET_DIR if that is
# set, as cargo reads it. Tools, virtual machines and logs lie there beside what cargo makes.
target=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../target}")
# A relative one would be another in every other directory.
[ -z "${CARGO_TARGET_DIR-}" ] || export CARGO_TARGET_DIR=$target
