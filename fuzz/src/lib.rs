//! Fuzz targets of everything that reads bytes of a repository or of a peer.
//!
//! Each module is one target: `run` is given bytes and panics when a promise is broken, `seeds` makes what the fuzzer begins
//! with out of real objects, written by the code that is fuzzed. The promises are more than "it does not panic": what was
//! accepted is what was written, sizes stay within what the input paid for, and what the writer makes reads back.
//!
//! Memory and time are bounded by the fuzzer itself (`e2e/run-fuzz.sh`): no single allocation beyond a limit, no input that takes
//! seconds. What only a holder of a repository's key can make is fuzzed behind a valid seal, else everything beyond the
//! authentication code would never be reached.
//!
//! Only what is public is used, so that a parser may be rewritten without a change here.

pub mod blob;
pub mod config;
pub mod dm_reply;
pub mod fixture;
pub mod format;
pub mod handles;
pub mod index;
pub mod input;
pub mod key_file;
pub mod lists;
pub mod location;
pub mod lock;
pub mod metadata;
pub mod mountinfo;
pub mod node;
pub mod pack;
pub mod ranges;
pub mod repository;
pub mod requests;
pub mod snapshot;
pub mod superblock;
pub mod thin_metadata;
#[path = "../../tests/support/dm_metadata/mod.rs"]
pub mod thin_pool;
pub mod tree;

pub use libfuzzer_sys;

/// The directory that seeds are written to before the first input is read; none when it is not set.
const SEEDS: &str = "WINDLASS_FUZZ_SEEDS";

/// Writes the seeds of a target to where the environment asks for them.
///
/// # Panics
/// When they cannot be written.
pub fn write_seeds(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(directory) = std::env::var_os(SEEDS) else { return };
    for (number, seed) in seeds().into_iter().enumerate() {
        std::fs::write(std::path::Path::new(&directory).join(format!("seed-{number:02}")), seed).expect("a seed is written");
    }
}

/// Makes a module of this crate the target of a binary.
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        use $crate::libfuzzer_sys;
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::write_seeds($crate::$target::seeds),
            |data: &[u8]| $crate::$target::run(data)
        );
    };
}
