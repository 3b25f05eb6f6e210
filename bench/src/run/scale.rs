//! The cases of a repository that many nodes share for years: a long index, a long list, a distant store, others' locks. Volumes are made up
//! as they are read, so that none of it is about disks.

use super::bench::Bench;
use crate::error::BenchError;
use crate::report::results::case;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Measures all of them.
pub(super) fn run(bench: &mut Bench) -> Result<(), BenchError> {
    index(bench)?;
    list(bench)?;
    cores(bench)?;
    locks(bench)
}

/// An index of ten million blobs, which the machine has seen before.
fn index(bench: &mut Bench) -> Result<(), BenchError> {
    let folder = bench.workshop()?;
    let cache = format!("--cache {}", folder.join("cache").display());
    bench.describe(format!("{}: 64 MiB into a repository of 10 million blobs, after another export", case::INDEX_10M));
    bench.prepare(&folder, "init")?;
    bench.prepare(&folder, "synthetic index --count 10000000")?;
    bench.prepare(&folder, &format!("synthetic export --size {} {cache}", 4 * MIB))?;
    for repetition in 0..bench.repetitions() as u64 {
        // Each of another size, so that most of it is new.
        let size = 64 * MIB + repetition * 4096;
        bench.synthetic(case::INDEX_10M, "10 million blobs", &folder, &format!("synthetic export --size {size} {cache}"))?;
    }
    Ok(())
}

/// A volume with a list of four million chunks.
fn list(bench: &mut Bench) -> Result<(), BenchError> {
    let folder = bench.workshop()?;
    let cache = format!("--cache {}", folder.join("cache").display());
    bench.describe(format!("{}: 1 TiB that is allocated as a whole, upon an export of it", case::UNCHANGED_FULL));
    bench.prepare(&folder, "init")?;
    bench.prepare(&folder, &format!("synthetic fabricate --size {TIB}"))?;
    // What the machine keeps of the index is made.
    bench.prepare(&folder, &format!("synthetic export --size {TIB} --changed 0 {cache}"))?;
    for (case, changed) in [(case::UNCHANGED_FULL, 0), (case::CHUNK_OF_FULL, 1)] {
        for _ in 0..bench.repetitions() {
            // Upon the fabricated one each time.
            let words = format!("synthetic export --size {TIB} --changed {changed} {cache}");
            bench.synthetic(case, "1 TiB full", &folder, &words)?;
        }
    }
    Ok(())
}

/// A store that takes 200 ms a request, and a machine of many processors: more workers are no slower.
fn cores(bench: &mut Bench) -> Result<(), BenchError> {
    bench.describe(format!("{}: 512 MiB to a store that takes 200 ms a request, with 64 workers and with 8", case::MANY_CORES));
    for _ in 0..bench.repetitions() {
        for (case, workers) in [(case::FEW_CORES, 8), (case::MANY_CORES, 64)] {
            let folder = bench.workshop()?;
            bench.prepare(&folder, "init")?;
            let words = format!("synthetic export --size {} --latency 200 --workers {workers}", 512 * MIB);
            bench.synthetic(case, "512 MiB, 200 ms", &folder, &words)?;
        }
    }
    Ok(())
}

/// Locks of a hundred other exports that run, on a store that takes 30 ms a request.
fn locks(bench: &mut Bench) -> Result<(), BenchError> {
    bench.describe(format!("{}: 4 MiB beside 100 locks of others, and beside none, at 30 ms a request", case::LOCKS));
    for _ in 0..bench.repetitions() {
        for (case, count) in [(case::NO_LOCKS, 0), (case::LOCKS, 100)] {
            let folder = bench.workshop()?;
            bench.prepare(&folder, "init")?;
            bench.prepare(&folder, &format!("synthetic locks --count {count}"))?;
            bench.synthetic(case, "4 MiB, 30 ms", &folder, &format!("synthetic export --size {} --latency 30", 4 * MIB))?;
        }
    }
    Ok(())
}
