//! Throughput of the hash kernels: full lanes, partly filled lanes, ragged lengths, small messages.
//!
//! `cargo bench --bench hash`; a name after `--` selects, e.g. `-- full/avx512`. Criterion's figure is bytes of all messages
//! per second of one core.

#![allow(clippy::expect_used, reason = "a benchmark is no interface, and stops where it cannot run")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use windlass::hash::{Kernel, sha256_many};

const MIB: usize = 1 << 20;
/// Long enough for the clock to rise, short enough for the whole to end within two minutes.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASUREMENT: Duration = Duration::from_secs(1);

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

fn total(inputs: &[&[u8]]) -> Throughput {
    Throughput::Bytes(inputs.iter().map(|input| input.len() as u64).sum())
}

fn kernels(criterion: &mut Criterion, group: &str, inputs: &[&[u8]]) {
    let mut group = criterion.benchmark_group(group);
    group.throughput(total(inputs));
    let mut digests = vec![[0; 32]; inputs.len()];
    for kernel in Kernel::available() {
        group.bench_function(kernel.to_string(), |bencher| {
            bencher.iter(|| kernel.sha256_many(black_box(inputs), black_box(&mut digests)).expect("it is available"));
        });
    }
    group.bench_function("chosen", |bencher| bencher.iter(|| sha256_many(black_box(inputs), black_box(&mut digests))));
}

fn benches(criterion: &mut Criterion) {
    let bytes = noise(33 * MIB);
    let chunks: Vec<&[u8]> = bytes.chunks_exact(MIB).collect();
    kernels(criterion, "full", &chunks[..16]);

    let unaligned: Vec<&[u8]> = bytes[13..].chunks_exact(MIB).take(16).collect();
    kernels(criterion, "unaligned", &unaligned);

    let mut ragged = chunks[..20].to_vec();
    ragged.push(&bytes[..10_000]);
    kernels(criterion, "ragged", &ragged);

    let small: Vec<&[u8]> = (0..1024).map(|i| &bytes[i * 1000..][..32 + i * 13 % 400]).collect();
    kernels(criterion, "small", &small);

    // Where a wide kernel becomes worth it: the crossing of two kernels' curves.
    let mut group = criterion.benchmark_group("streams");
    for streams in [1, 2, 3, 4, 6, 8, 10, 12, 14, 16] {
        let inputs: Vec<&[u8]> = chunks[..streams].iter().map(|chunk| &chunk[..MIB / 8]).collect();
        let mut digests = vec![[0; 32]; streams];
        group.throughput(total(&inputs));
        for kernel in Kernel::available() {
            group.bench_function(BenchmarkId::new(kernel.to_string(), streams), |bencher| {
                bencher.iter(|| kernel.sha256_many(black_box(&inputs), black_box(&mut digests)).expect("it is available"));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = hash;
    config = Criterion::default().sample_size(20).warm_up_time(WARM_UP).measurement_time(MEASUREMENT);
    targets = benches
}
criterion_main!(hash);
