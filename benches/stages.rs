//! Throughput of the stages of an export and a restore on one core, to see which one is how far from what it could be.
//!
//! `cargo bench --bench stages`; a name after `--` selects, e.g. `-- compress`. Figures are plain bytes per second, for sealing and
//! naming of packs bytes of the pack. Chunks have 1 MiB and come in three kinds: text (compresses well), the first executable
//! that is found (as real disks have), noise (does not compress). What `windlass-bench limit` measures with a whole image, this
//! measures stage by stage, with the product's own code wherever it can be called by itself.

#![allow(clippy::expect_used, reason = "a benchmark is no interface, and stops where it cannot run")]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::{
    BlobKind, Compressor, Id, IndexWriter, KdfCost, Pack, PackBuilder, PackRecord, PackedBlob, Password, Repository, Sealer,
    Verification,
};
use windlass::transfer::{hash, zeros};

const MIB: usize = 1 << 20;
const CHUNKS: usize = 16;
const LEVEL: i32 = 1;
/// Long enough for the clock to rise, short enough for the whole to end within two minutes.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASUREMENT: Duration = Duration::from_secs(2);

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect()
}

fn text(length: usize) -> Vec<u8> {
    let numbers = noise(length / 8);
    let mut text = String::with_capacity(length + 64);
    for (line, pair) in numbers.chunks_exact(2).cycle().enumerate() {
        if text.len() >= length {
            break;
        }
        text.push_str(&format!("{line:08} account {} pending {:02x}{:02x}\n", pair[0] % 17, pair[1], pair[0]));
    }
    text.truncate(length);
    text.into_bytes()
}

/// This very program, with its debugging information.
fn executable(length: usize) -> Vec<u8> {
    let own = std::env::current_exe().and_then(std::fs::read).expect("it runs");
    own.into_iter().cycle().take(length).collect()
}

/// Chunks of each kind, `CHUNKS` of each.
fn kinds() -> [(&'static str, Vec<u8>); 3] {
    let length = CHUNKS * MIB;
    [("text", text(length)), ("executable", executable(length)), ("noise", noise(length))]
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started")
}

fn repository(runtime: &Runtime) -> Repository {
    let password = Password::new("bench").expect("it is not empty");
    runtime.block_on(Repository::init(Arc::new(MemoryStore::new()), &password, KdfCost::TEST)).expect("memory does not fail")
}

/// All chunks in one pack.
fn pack(sealer: &Sealer, bytes: &[u8], verification: Verification) -> Pack {
    let mut compressor = Compressor::new(LEVEL).expect("it is a level");
    let mut builder = PackBuilder::new(sealer.clone(), BlobKind::Data, bytes.len() + MIB, verification);
    for (number, chunk) in bytes.chunks(MIB).enumerate() {
        builder.add(name(number as u64), chunk, &mut compressor).expect("it fits");
    }
    builder.finish().expect("the header can be sealed").expect("it has blobs")
}

/// A name for a blob that nobody reads by its hash.
fn name(number: u64) -> Id {
    Id::of(&number.to_le_bytes())
}

fn read_and_name(criterion: &mut Criterion) {
    let zero = vec![0; CHUNKS * MIB];
    let mut group = criterion.benchmark_group("zero test");
    group.throughput(Throughput::Bytes(zero.len() as u64));
    group.bench_function("zeros", |bencher| {
        bencher.iter(|| zero.chunks(MIB).all(|chunk| zeros::is_zero(black_box(chunk))));
    });
    group.finish();

    let bytes = noise(CHUNKS * MIB);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let chunks: Vec<&[u8]> = bytes.chunks(MIB).collect();
    let mut ids = Vec::new();
    group.bench_function("sixteen chunks", |bencher| bencher.iter(|| hash::sha256_many(black_box(&chunks), &mut ids)));
    group.bench_function("one pack", |bencher| bencher.iter(|| Id::of(black_box(&bytes))));
    let packs: Vec<&[u8]> = bytes.chunks(4 * MIB).collect();
    group.bench_function("four packs together", |bencher| bencher.iter(|| hash::sha256_many(black_box(&packs), &mut ids)));
    group.finish();
}

fn compress_and_pack(criterion: &mut Criterion) {
    let runtime = runtime();
    let sealer = repository(&runtime).sealer();
    let kinds = kinds();
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes((CHUNKS * MIB) as u64));
    for (kind, bytes) in &kinds {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL).expect("it is a level");
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(MIB));
        group.bench_function(format!("zstd alone, {kind}"), |bencher| {
            bencher.iter(|| {
                for chunk in bytes.chunks(MIB) {
                    out.clear();
                    black_box(zstd.compress_to_buffer(black_box(chunk), &mut out).expect("there is room"));
                }
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes((CHUNKS * MIB) as u64));
    for (kind, bytes) in &kinds {
        for (how, verification) in [("unverified", Verification::Skip), ("verified", Verification::Decode)] {
            group.bench_function(format!("{how}, {kind}"), |bencher| bencher.iter(|| pack(&sealer, bytes, verification)));
        }
    }
    group.finish();
}

fn seal_and_open(criterion: &mut Criterion) {
    let runtime = runtime();
    let repository = repository(&runtime);
    let sealer = repository.sealer();
    let mut group = criterion.benchmark_group("seal");
    let bytes = noise(MIB);
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("encrypt and authenticate", |bencher| bencher.iter(|| sealer.seal(black_box(&bytes)).expect("it can")));
    let sealed = sealer.seal(&bytes).expect("it can");
    group.bench_function("verify and decrypt", |bencher| {
        bencher.iter_batched_ref(
            || sealed.clone(),
            |sealed| sealer.open(sealed).map(|_| ()).expect("it is sound"),
            BatchSize::LargeInput,
        );
    });
    group.finish();

    // Everything that a restore does with a blob: verify, decrypt, decompress, hash.
    let mut group = criterion.benchmark_group("open a blob");
    group.throughput(Throughput::Bytes(MIB as u64));
    for (kind, bytes) in &kinds() {
        let plain = &bytes[..MIB];
        let id = Id::of(plain);
        let mut compressor = Compressor::new(LEVEL).expect("it is a level");
        let mut builder = PackBuilder::new(sealer.clone(), BlobKind::Data, 2 * MIB, Verification::Skip);
        builder.add(id, plain, &mut compressor).expect("it fits");
        let pack = builder.finish().expect("the header can be sealed").expect("it has a blob");
        let index = runtime.block_on(async {
            repository.put_pack(&pack).await.expect("memory does not fail");
            let mut writer = IndexWriter::new(repository.clone());
            writer.add(pack.record.clone()).await.expect("memory does not fail");
            writer.finish().await.expect("memory does not fail");
            repository.load_index().await.expect("memory does not fail")
        });
        group.bench_function(*kind, |bencher| {
            bencher.iter(|| runtime.block_on(repository.read_blob(&index, BlobKind::Data, &id)).expect("it is sound"));
        });
    }
    group.finish();
}

/// An index of a volume of 100 GiB: 100 000 blobs in packs of 40.
fn load_index(criterion: &mut Criterion) {
    const BLOBS: u64 = 100_000;
    const IN_A_PACK: u64 = 40;
    let runtime = runtime();
    let repository = repository(&runtime);
    runtime.block_on(async {
        let mut writer = IndexWriter::new(repository.clone());
        for pack in 0..BLOBS / IN_A_PACK {
            let blobs = (0..IN_A_PACK).map(|number| PackedBlob {
                id: name(pack * IN_A_PACK + number),
                kind: BlobKind::Data,
                offset: number as u32 * 400_000,
                length: 400_000,
                uncompressed_length: NonZeroU32::new(MIB as u32),
            });
            let record = PackRecord { id: name(BLOBS + pack), blobs: blobs.collect() };
            writer.add(record).await.expect("memory does not fail");
        }
        writer.finish().await.expect("memory does not fail");
    });
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10).throughput(Throughput::Elements(BLOBS));
    group.bench_function("load 100 000 blobs", |bencher| {
        bencher.iter(|| runtime.block_on(repository.load_index()).expect("memory does not fail"));
    });
    group.finish();
}

criterion_group! {
    name = stages;
    config = Criterion::default().sample_size(10).warm_up_time(WARM_UP).measurement_time(MEASUREMENT);
    targets = read_and_name, compress_and_pack, seal_and_open, load_index
}
criterion_main!(stages);
