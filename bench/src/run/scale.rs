//! The cases of a repository that many nodes share for years: a long index, a long list, a distant store, others' locks. Volumes are made up
//! as they are read, and packs of others when they are asked for, so that none of it is about disks.
//!
//! Each case [proves](Proof) from the report of its export that this met what the case is about.

use serde_json::Value;

use super::bench::Bench;
use super::proof::Proof;
use crate::error::{BenchError, While};
use crate::report::results::case;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// Chunks of volumes of up to a TiB.
const CHUNK: u64 = 256 * KIB;
const INDEX_BLOBS: u64 = 10_000_000;
const FOREIGN_LOCKS: u64 = 100;
/// The largest pack there is: of so many bytes at least one is put.
const PACK: u64 = 16 * MIB;

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
    bench.prepare(&folder, &format!("synthetic index --count {INDEX_BLOBS}"))?;
    bench.prepare(&folder, &format!("synthetic export --size {} --seed 1 {cache}", 4 * MIB))?;
    for number in 0..bench.repetitions() as u64 {
        // Another volume each time, all of which is new.
        let words = format!("synthetic export --size {} --seed {} {cache}", 64 * MIB, number + 2);
        let report = bench.synthetic(case::INDEX_10M, "10 million blobs", &folder, &words)?;
        let proof = Proof::new(case::INDEX_10M, &report);
        proof.at_least("indexed_blobs", INDEX_BLOBS)?;
        proof.equals("read_bytes", 64 * MIB)?;
        proof.equals("new_chunks", 64 * MIB / CHUNK)?;
        // Packs were listed when the machine first saw the repository, and it has all of the index: what it stored itself too.
        proof.requests("list data", 0)?;
        proof.requests("get index", 0)?;
    }
    Ok(())
}

/// A volume with a list of four million chunks.
fn list(bench: &mut Bench) -> Result<(), BenchError> {
    let folder = bench.workshop()?;
    let cache = format!("--cache {}", folder.join("cache").display());
    bench.describe(format!("{}: 1 TiB that is allocated as a whole, upon an export of it", case::UNCHANGED_FULL));
    bench.prepare(&folder, "init")?;
    let fabricated = bench.prepare(&folder, &format!("synthetic fabricate --size {TIB}"))?;
    let fabricated: Value = serde_json::from_str(fabricated.trim()).while_doing(|| "reading what was fabricated".to_owned())?;
    let first = fabricated["snapshot"].as_str().ok_or_else(|| BenchError::new("nothing was fabricated"))?;
    // What the machine keeps of the index is made, and where the chunks of the list lie is looked up once.
    bench.prepare(&folder, &format!("synthetic export --size {TIB} --changed 0 {cache}"))?;
    for (case, changed) in [(case::UNCHANGED_FULL, 0), (case::CHUNK_OF_FULL, 1)] {
        for _ in 0..bench.repetitions() {
            // Upon the fabricated one each time.
            let words = format!("synthetic export --size {TIB} --changed {changed} {cache}");
            let report = bench.synthetic(case, "1 TiB full", &folder, &words)?;
            let proof = Proof::new(case, &report);
            proof.says("mode", "incremental")?;
            proof.says("parent", first)?;
            proof.at_least("indexed_blobs", TIB / CHUNK)?;
            // Those that are in the list and were not read were taken over.
            proof.equals("chunks", TIB / CHUNK)?;
            proof.equals("read_bytes", changed * CHUNK)?;
            proof.requests("list data", 0)?;
        }
    }
    Ok(())
}

/// A store that takes 200 ms a request, and a machine of many processors: more workers are no slower.
fn cores(bench: &mut Bench) -> Result<(), BenchError> {
    let size = 512 * MIB;
    bench.describe(format!(
        "{}: 512 MiB that do not compress to a store that takes 200 ms a request, with 64 workers and with 8",
        case::MANY_CORES
    ));
    for _ in 0..bench.repetitions() {
        for (case, workers) in [(case::FEW_CORES, 8), (case::MANY_CORES, 64)] {
            let folder = bench.workshop()?;
            bench.prepare(&folder, "init")?;
            let words = format!("synthetic export --size {size} --filling noise --latency 200 --workers {workers}");
            let report = bench.synthetic(case, "512 MiB, 200 ms", &folder, &words)?;
            let proof = Proof::new(case, &report);
            proof.equals("workers", workers)?;
            proof.equals("new_chunks", size / CHUNK)?;
            proof.at_least("stored_bytes", size)?;
            proof.requests_at_least("put data", size / PACK)?;
        }
    }
    Ok(())
}

/// Locks of a hundred other exports that run, on a store that takes 30 ms a request.
fn locks(bench: &mut Bench) -> Result<(), BenchError> {
    bench.describe(format!("{}: 4 MiB beside {FOREIGN_LOCKS} locks of others, and beside none, at 30 ms a request", case::LOCKS));
    for _ in 0..bench.repetitions() {
        for (case, count) in [(case::NO_LOCKS, 0), (case::LOCKS, FOREIGN_LOCKS)] {
            let folder = bench.workshop()?;
            bench.prepare(&folder, "init")?;
            bench.prepare(&folder, &format!("synthetic locks --count {count}"))?;
            let words = format!("synthetic export --size {} --latency 30", 4 * MIB);
            let report = bench.synthetic(case, "4 MiB, 30 ms", &folder, &words)?;
            // Each is read once, for it may exclude us.
            Proof::new(case, &report).requests("get locks", count)?;
        }
    }
    Ok(())
}
