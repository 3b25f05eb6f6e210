//! The cases on the image of a file system: what the required ratios are about.

use super::Extent;
use super::bench::{Bench, Snapshot};
use crate::data::change::{self, Pattern};
use crate::data::filesystem::{self, Shape};
use crate::error::BenchError;
use crate::report::results::case;

const DATA: &str = "file system";
/// How much of what is allocated is overwritten.
const PERCENT: f64 = 1.0;
/// Turns of the limit and Windlass alone after each turn of everyone, where both take less than a second: on a machine that others
/// use too the middle one of three such figures is off by a fifth.
const TURNS_AGAINST_LIMIT: usize = 2;

/// Measures every case with every tool.
pub(super) fn run(bench: &mut Bench, extent: Extent, seed: u64) -> Result<(), BenchError> {
    let shape = match extent {
        Extent::Full => Shape::FULL,
        Extent::Quick => Shape::QUICK,
    };
    let base = bench.image("filesystem");
    filesystem::make(&base, &bench.mount_point(), &shape, seed)?;
    let allocated = change::allocated_bytes(&base)?;
    bench.describe(format!(
        "{DATA}: ext4 of {} MiB, {:.0} MB allocated: this machine's libraries, binaries, sources and documents, {} MiB that do not \
         compress, {} MiB of zeros, {} MiB of database pages",
        shape.volume >> 20,
        allocated as f64 / 1e6,
        shape.random >> 20,
        shape.zeros >> 20,
        shape.pages >> 20,
    ));
    let later = [
        (case::SCATTERED, Pattern::Scattered, "in writes of 4 to 64 KiB all over"),
        (case::CLUSTERED, Pattern::Clustered, "in eight runs"),
        (case::UNCHANGED, Pattern::Unchanged, "nothing, in a new snapshot"),
    ];
    for (number, (case, pattern, text)) in (1..).zip(&later) {
        let changed = change::make(&base, &bench.image(case), *pattern, PERCENT, seed + number)?;
        bench.describe(format!("{case}: {:.1} MB overwritten, {text}", changed as f64 / 1e6));
    }

    let first = Snapshot { data: DATA, file: &base, base: None };
    for _ in 0..bench.repetitions() {
        bench.limit(case::FULL, &first)?;
        for tool in bench.tools() {
            let turn = bench.full(tool, case::FULL, &first);
            bench.unless_left_out(tool, turn)?;
        }
        bench.full_unverified("windlass", case::UNVERIFIED, &first)?;
    }
    for (case, ..) in &later {
        let image = bench.image(case);
        let next = Snapshot { data: DATA, file: &image, base: Some(&base) };
        for _ in 0..bench.repetitions() {
            bench.limit(case, &next)?;
            for tool in bench.tools() {
                let turn = bench.increment(tool, case, &next);
                bench.unless_left_out(tool, turn)?;
            }
            for _ in 0..TURNS_AGAINST_LIMIT {
                bench.limit(case, &next)?;
                bench.increment("windlass", case, &next)?;
            }
        }
    }
    for _ in 0..bench.repetitions() {
        for tool in bench.tools() {
            let turn = bench.read_back(tool, case::RESTORE, case::CHECK, &first);
            bench.unless_left_out(tool, turn)?;
        }
    }
    let mut images = vec![base];
    images.extend(later.iter().map(|(case, ..)| bench.image(case)));
    bench.forget(&images)
}
