//! Walks over the metadata of a thin pool against thin-provisioning-tools, which are run as they are: their start is in their figures.
//!
//! `cargo bench --bench dm_metadata`; a name after `--` selects, e.g. `-- full`. Two devices of 100 GiB in blocks of 64 KiB each, made by
//! `thin_restore`, which shares nothing between them, or by the tests' writer, which shares what is equal, as a pool does after a snapshot.
//! The metadata are files in the folder for temporary files (`TMPDIR`), read past the cache where its file system can.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark is no interface, and stops where it cannot run")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

#[path = "../tests/support/dm_metadata/mod.rs"]
mod dm_metadata;

use std::fs::{self, File};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dm_metadata::walks::id;
use dm_metadata::writer::{Shape, Snapshot, Writer};
use dm_metadata::{Device, Map, Mapping, Pool, tools};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::dm::metadata::{KeptMapBuilder, MetadataFile, NEVER, ThinMetadata, ThinMetadataError};
use windlass::dm::units::ThinTime;

/// Blocks of 100 GiB.
const BLOCKS: u64 = (100 << 30) / (64 << 10);
/// Enough for two devices that are full and share nothing.
const METADATA: u64 = 128 << 20;

/// A device with these blocks, and the same with every `step`-th run of `run` blocks of it written to since.
fn pool(mapped: impl Iterator<Item = u64>, step: usize, run: usize) -> Pool {
    let base: Map = (0..).zip(mapped).map(|(data, block)| (block, Mapping { data, time: 0 })).collect();
    let mut next = base.len() as u64;
    let mut target = base.clone();
    for (index, mapping) in target.values_mut().enumerate() {
        if index % (step * run) < run {
            *mapping = Mapping { data: next, time: 1 };
            next += 1;
        }
    }
    let device = |id, map| Device { id, creation_time: id - 1, snapshotted_time: 1, map, ..Device::default() };
    Pool { time: 1, data_blocks: next, devices: vec![device(1, base), device(2, target)], ..Pool::default() }
}

fn run_tool(name: &str, arguments: &[&str], file: &Path) {
    let status = Command::new(name).args(arguments).arg(file).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

fn changed(metadata: &ThinMetadata<'_>) -> u64 {
    let mut blocks = 0;
    metadata
        .changed(id(1), id(2), &mut |run| {
            blocks += run.length();
            Ok::<(), ThinMetadataError>(())
        })
        .unwrap();
    blocks
}

fn with_metadata<T>(file: &Path, walk: impl FnOnce(&ThinMetadata<'_>) -> T) -> T {
    let blocks = MetadataFile::new(File::open(file).unwrap()).unwrap();
    walk(&ThinMetadata::live(&blocks, NEVER).unwrap())
}

/// A difference, opening of the file included, against `thin_delta`.
fn differences(criterion: &mut Criterion, name: &str, file: &Path) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4));
    group.bench_function("changed", |bencher| bencher.iter(|| with_metadata(file, |metadata| black_box(changed(metadata)))));
    group.bench_function("thin_delta", |bencher| {
        bencher.iter(|| run_tool("thin_delta", &["--thin1=1", "--thin2=2"], file));
    });
}

fn others(criterion: &mut Criterion, name: &str, file: &Path) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4));
    let mut builder = KeptMapBuilder::new(ThinTime::new(1).unwrap(), NonZeroUsize::new(1 << 16).unwrap());
    let keep = |run| {
        builder.push(run).unwrap();
        Ok::<(), ThinMetadataError>(())
    };
    let mut keep = keep;
    with_metadata(file, |metadata| metadata.mapped(id(1), &mut keep)).unwrap();
    let kept = builder.finish();
    group.bench_function("changed_since", |bencher| {
        bencher.iter(|| {
            with_metadata(file, |metadata| {
                let mut blocks = 0;
                metadata.changed_since(&kept, id(2), &mut |run| {
                    blocks += run.length();
                    Ok::<(), ThinMetadataError>(())
                })?;
                Ok::<u64, ThinMetadataError>(black_box(blocks))
            })
            .unwrap()
        });
    });
    group.bench_function("usage", |bencher| bencher.iter(|| with_metadata(file, |metadata| metadata.usage().unwrap())));
    group.bench_function("thin_ls", |bencher| bencher.iter(|| run_tool("thin_ls", &["-o", "DEV,EXCLUSIVE_BLOCKS"], file)));
}

fn restored(pool: &Pool, directory: &Path, name: &str) -> PathBuf {
    let file = directory.join(name);
    fs::rename(tools::restore(pool, directory, METADATA), &file).unwrap();
    file
}

fn benches(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut random = StdRng::seed_from_u64(1);
    let hundredth = pool((0..BLOCKS).filter(|_| random.random_range(0..100) == 0), 100, 1);
    differences(criterion, "1% mapped at random, 1% changed", &restored(&hundredth, directory, "hundredth"));
    let shared = directory.join("shared");
    fs::write(&shared, Writer::default().pool(&hundredth, &[Shape::FULL], Snapshot::None)).unwrap();
    differences(criterion, "1% mapped at random, 1% changed, shared", &shared);
    let in_order = pool(0..BLOCKS / 25, 100, 1);
    differences(criterion, "4% mapped in order, 1% changed", &restored(&in_order, directory, "in-order"));
    let full = pool(0..BLOCKS, 100, 1);
    let file = restored(&full, directory, "full");
    differences(criterion, "full, 1% changed", &file);
    others(criterion, "full, 1% changed", &file);
    let runs = pool(0..BLOCKS, 100, 64);
    differences(criterion, "full, 1% changed in runs of 64", &restored(&runs, directory, "runs"));
}

criterion_group!(all, benches);
criterion_main!(all);
