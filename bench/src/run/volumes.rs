//! The cases on other images: a database's pages, what does not compress, large volumes that are nearly empty.

use std::fs::OpenOptions;
use std::path::Path;

use super::bench::{Bench, Snapshot};
use crate::data::change::{self, Pattern};
use crate::data::volume::{self, Content};
use crate::error::{BenchError, While};
use crate::report::results::case;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Those that are compared here; the others have shown themselves on the file system.
const TOOLS: [&str; 3] = ["windlass", "restic", "restic-tuned"];
const WINDLASS: &str = "windlass";

/// Measures all of them.
pub(super) fn run(bench: &mut Bench, seed: u64) -> Result<(), BenchError> {
    database(bench, seed)?;
    incompressible(bench, seed)?;
    sparse(bench, seed)?;
    growth(bench, seed)
}

fn compared(bench: &Bench) -> Vec<&'static str> {
    bench.tools().into_iter().filter(|tool| TOOLS.contains(tool)).collect()
}

fn database(bench: &mut Bench, seed: u64) -> Result<(), BenchError> {
    let (base, later) = (bench.image("database"), bench.image(case::SCATTERED_DATABASE));
    volume::make(&base, GIB, 512 * MIB, 64 * MIB, Content::Pages, seed)?;
    let changed = change::make(&base, &later, Pattern::Scattered, 1.0, seed + 1)?;
    bench.describe(format!(
        "database: 1 GiB with 512 MiB of pages, of which {:.1} MB are overwritten, scattered",
        changed as f64 / 1e6
    ));
    let first = Snapshot { data: "database", file: &base, base: None };
    let next = Snapshot { data: "database", file: &later, base: Some(&base) };
    for _ in 0..bench.repetitions() {
        bench.limit(case::FULL_DATABASE, &first)?;
        for tool in compared(bench) {
            bench.full(tool, case::FULL_DATABASE, &first)?;
        }
    }
    for _ in 0..bench.repetitions() {
        bench.limit(case::SCATTERED_DATABASE, &next)?;
        for tool in compared(bench) {
            bench.increment(tool, case::SCATTERED_DATABASE, &next)?;
        }
    }
    bench.forget(&[base, later])
}

fn incompressible(bench: &mut Bench, seed: u64) -> Result<(), BenchError> {
    let image = bench.image("incompressible");
    volume::make(&image, 512 * MIB, 512 * MIB, 512 * MIB, Content::Random, seed)?;
    bench.describe("incompressible: 512 MiB of random bytes");
    let snapshot = Snapshot { data: "incompressible", file: &image, base: None };
    for _ in 0..bench.repetitions() {
        bench.limit(case::FULL_INCOMPRESSIBLE, &snapshot)?;
        for tool in compared(bench) {
            bench.full(tool, case::FULL_INCOMPRESSIBLE, &snapshot)?;
        }
    }
    bench.forget(&[image])
}

fn sparse(bench: &mut Bench, seed: u64) -> Result<(), BenchError> {
    let (base, later) = (bench.image("sparse"), bench.image(case::UNCHANGED_SPARSE));
    volume::make(&base, 100 * GIB, GIB, 8 * MIB, Content::Mixed, seed)?;
    change::make(&base, &later, Pattern::Unchanged, 0.0, seed)?;
    bench.describe("sparse: 100 GiB with 1 GiB of rows and pages in 128 runs");
    let first = Snapshot { data: "sparse", file: &base, base: None };
    let next = Snapshot { data: "sparse", file: &later, base: Some(&base) };
    for repetition in 0..bench.repetitions() {
        bench.limit(case::FULL_SPARSE, &first)?;
        bench.full(WINDLASS, case::FULL_SPARSE, &first)?;
        // It reads 100 GiB of zeros, for minutes; the first repetition says enough.
        if repetition == 0 && compared(bench).contains(&"restic") {
            bench.full("restic", case::FULL_SPARSE, &first)?;
        }
    }
    bench.remark(case::FULL_SPARSE, "restic was measured once: it reads all of the 100 GiB");
    for _ in 0..bench.repetitions() {
        bench.increment(WINDLASS, case::UNCHANGED_SPARSE, &next)?;
    }
    bench.forget(&[base, later])
}

/// The same change in a small and in a large volume that is otherwise empty.
fn growth(bench: &mut Bench, seed: u64) -> Result<(), BenchError> {
    let volumes = [(case::GROWTH_SMALL, "10 GiB", 10 * GIB), (case::GROWTH_LARGE, "1 TiB", 1024 * GIB)];
    let mut images = Vec::new();
    for (case, data, size) in volumes {
        let (base, later) = (bench.image(&format!("{case}-base")), bench.image(case));
        // All within the first 10 GiB, so that the chunks that change are the same.
        volume::make(&base, 10 * GIB, 512 * MIB, 32 * MIB, Content::Mixed, seed)?;
        grow(&base, size)?;
        let changed = change::make(&base, &later, Pattern::Scattered, 1.0, seed + 1)?;
        bench.describe(format!(
            "{case}: {data} with 512 MiB of rows and pages, of which {:.1} MB are overwritten",
            changed as f64 / 1e6
        ));
        bench.full(WINDLASS, &format!("full-before-{case}"), &Snapshot { data, file: &base, base: None })?;
        images.push((case, data, base, later));
    }
    // Short runs, so more of them.
    for _ in 0..bench.repetitions().max(5) {
        for (case, data, base, later) in &images {
            bench.increment(WINDLASS, case, &Snapshot { data, file: later, base: Some(base) })?;
        }
    }
    let all: Vec<_> = images.into_iter().flat_map(|(_, _, base, later)| [base, later]).collect();
    bench.forget(&all)
}

fn grow(image: &Path, size: u64) -> Result<(), BenchError> {
    let what = || format!("growing {}", image.display());
    let file = OpenOptions::new().write(true).open(image).while_doing(what)?;
    file.set_len(size).and_then(|()| file.sync_all()).while_doing(what)
}
