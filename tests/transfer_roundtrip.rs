//! What was exported comes back, byte for byte, and holes stay holes.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::sync::Arc;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::block::{BlockSink, MemorySink};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::FileSelector;
use windlass::repository::{BlobKind, Id};
use windlass::scratch::Scratch;
use windlass::transfer::restore::plan::PlanError;
use windlass::transfer::{
    ChunkSize, ExportSource, Image, ImageReader, Locking, Phase, Progress, ReadImageError, RestoreError, RestoreOptions, Target,
    export, restore,
};
use windlass::types::ByteRange;
use windlass::types::error::chain;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Volumes of some megabytes: extents of random bytes, of one repeated byte, and of zeros that are allocated.
fn volumes() -> impl Strategy<Value = Volume> {
    let extents = proptest::collection::vec((0_usize..1 << 20, 1_usize..700_000, 0_u8..4), 0..8);
    (1_usize..6 << 20, extents).prop_map(|(size, extents)| {
        let mut volume = Volume::empty(size);
        let mut at = 0;
        for (gap, length, kind) in extents {
            at += gap;
            volume = volume.with(at, length, |byte| match kind {
                0 => 0,
                1 => 7,
                _ => (byte as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7],
            });
            at += length;
        }
        volume
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn every_volume_comes_back_from_memory(
        volume in volumes(),
        exponent in 0_u32..3,
        beyond in 0_usize..100_000,
        list_memory in prop_oneof![0_usize..500, Just(1 << 20)],
        reads in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..2 << 20), 1..6),
    ) {
        let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let (_, repository) = in_memory().await;
            // Lists and tables of more than a few rows are spilled.
            let repository = repository.with_scratch(Scratch::new(folder.path(), 1 << 30, list_memory));
            let report = export_volume(&repository, &volume, chunk_size).await.unwrap();
            assert_eq!(report.size_bytes, volume.bytes.len() as u64);
            let found = check(&repository).await;
            assert!(found.is_clean(), "{:?}", found.errors);

            let mut expected = volume.bytes.clone();
            expected.resize(volume.bytes.len() + beyond, 0);
            let fresh = fresh_sink(expected.len());
            restore_latest(&repository, fresh.clone(), Target::Fresh).await.unwrap().unwrap();
            assert!(fresh.content() == expected);
            assert!(fresh.zeroed().is_empty());
            assert_eq!(fresh.flushes(), 1);
            for written in fresh.written() {
                let chunks = written.widened(chunk_size.bytes(), u64::MAX).unwrap();
                assert!(volume.extents.iter().any(|extent| extent.intersection(chunks).is_some()), "{written:?} was a hole");
            }

            for target in [Target::Dirty, Target::Partial] {
                let dirty = Arc::new(MemorySink::new(expected.len()));
                dirty.write_at(0, &vec![0xAA; expected.len()]).unwrap();
                restore_latest(&repository, dirty.clone(), target).await.unwrap().unwrap();
                assert!(dirty.content() == expected, "{target:?}");
            }

            let image = Image::open(&repository, "latest", &FileSelector::Only, Locking::Shared).await.unwrap();
            let reader = ImageReader::open(image).await.unwrap();
            for (from, length) in reads {
                let from = from.index(volume.bytes.len());
                let wanted = &volume.bytes[from..(from + length).min(volume.bytes.len())];
                let mut found = vec![0xAA; wanted.len()];
                reader.read_at(from as u64, &mut found).await.unwrap();
                assert!(found == wanted, "{} bytes at {from}", wanted.len());
            }
            let beyond = reader.read_at(volume.bytes.len() as u64, &mut [0]).await;
            assert!(matches!(beyond, Err(ReadImageError::OutOfRange { length: 1, .. })));
            reader.into_image().close().await;
        });
    }
}

#[tokio::test]
async fn a_second_export_of_the_same_data_stores_nothing_but_the_snapshot() {
    let (store, repository) = in_memory().await;
    let volume = Volume::random(9 << 20, 3);
    let first = export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    assert_eq!((first.chunks, first.new_chunks, first.new_bytes), (9, 9, 9 << 20));
    assert_eq!(first.read_bytes, 9 << 20);
    let packs = store.keys().len();
    let second = export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    assert_eq!((second.new_chunks, second.new_bytes, second.stored_bytes), (0, 0, 0));
    // One snapshot more at most: two with the same contents and times would even share a name.
    assert!(store.keys().len() <= packs + 1);
    assert!(check(&repository).await.is_clean());
}

#[tokio::test]
async fn no_more_is_new_than_was_read() {
    let (_, repository) = in_memory().await;
    let data = Volume::random(64 << 10, 5).bytes;
    // A little in each chunk; the rest of it is not allocated.
    let volume = (0..6).fold(Volume::empty(6 << 20), |volume, chunk: u8| {
        volume.with(usize::from(chunk) << 20, 64 << 10, |at| data[at % (64 << 10)] ^ chunk)
    });
    let report = export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    assert_eq!((report.new_chunks, report.read_bytes, report.new_bytes), (6, 6 * (64 << 10), 6 * (64 << 10)));
}

#[tokio::test]
async fn equal_chunks_of_a_volume_are_stored_once_and_restored_everywhere() {
    let (_, repository) = in_memory().await;
    let block = Volume::random(1 << 20, 11).bytes;
    let volume = Volume::empty(8 << 20).with(0, 8 << 20, |at| if at / (1 << 20) == 5 { 0 } else { block[at % (1 << 20)] });
    let report = export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    assert_eq!((report.chunks, report.new_chunks, report.zero_bytes), (7, 1, 1 << 20));
    let sink = fresh_sink(8 << 20);
    let restored = restore_latest(&repository, sink.clone(), Target::Fresh).await.unwrap().unwrap();
    assert!(sink.content() == volume.bytes);
    assert_eq!((restored.blobs, restored.written_bytes), (1, 7 << 20));
    assert!(restored.fetched_bytes < 2 << 20);
}

#[tokio::test]
async fn a_sparse_volume_costs_what_is_in_it() {
    let (store, repository) = in_memory().await;
    let volume = Volume::empty(256 << 20).with(200 << 20, 4096, |_| 9);
    let report = export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    assert_eq!((report.read_bytes, report.chunks, report.zero_bytes), (4096, 1, 255 << 20));
    assert!(report.stored_bytes < 64 << 10, "{}", report.stored_bytes);
    let mut image = Image::open(&repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
    assert_eq!(image.path(), "/v-test/volume.img");
    assert_eq!(image.metadata().unwrap().volume_handle.as_deref(), Some("v-test"));
    assert!(store.keys().len() < 12);
    let sink = fresh_sink(256 << 20);
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let progress = Progress::new();
    let report = restore(&mut image, sink.clone(), &options, &progress, &CancellationToken::new()).await.unwrap();
    image.close().await;
    // Only the part of the chunk that holds something.
    assert_eq!(report.written_bytes, 64 << 10);
    assert_eq!(sink.written(), [ByteRange::new(200 << 20, 64 << 10).unwrap()]);
    assert!(sink.content() == volume.bytes);
    let seen = progress.snapshot();
    assert_eq!((seen.phase, seen.done_bytes, seen.total_bytes), (Phase::Done, 256 << 20, 256 << 20));
}

#[tokio::test]
async fn a_directory_holds_a_repository_as_well_as_memory() {
    let directory = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(LocalStore::new(directory.path().join("repository")))).await;
    let volume = Volume::random(20 << 20, 5);
    let mut options = options(&volume, ChunkSize::SMALL);
    options.budget.workers = 3.try_into().unwrap();
    let progress = Progress::new();
    let cancel = CancellationToken::new();
    let report =
        export(ExportSource::new(volume.source(), volume.stream()), &repository, &options, &progress, &cancel).await.unwrap();
    assert!(report.stored_bytes > 20 << 20);
    assert_eq!(progress.snapshot().stored_bytes, report.stored_bytes);
    assert!(check(&repository).await.is_clean());
    let sink = fresh_sink(volume.bytes.len());
    restore_latest(&repository, sink.clone(), Target::Fresh).await.unwrap().unwrap();
    assert!(sink.content() == volume.bytes);
}

#[tokio::test]
async fn a_sink_that_is_too_small_is_refused_before_anything_is_written() {
    let (_, repository) = in_memory().await;
    export_volume(&repository, &Volume::random(1 << 20, 2), ChunkSize::SMALL).await.unwrap();
    let sink = fresh_sink((1 << 20) - 1);
    let error = restore_latest(&repository, sink.clone(), Target::Dirty).await.unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::SinkTooSmall { image_bytes: 1_048_576, sink_bytes: 1_048_575 }), "{error}");
    assert!(sink.written().is_empty() && sink.zeroed().is_empty());
}

#[test]
fn a_list_that_does_not_add_up_has_an_error_that_says_so() {
    let error = RestoreError::from(PlanError::SizeMismatch { recorded: 5, found: 4 });
    assert_eq!(error.to_string(), "the image is recorded with 5 bytes and its blobs add up to 4");
}

#[tokio::test]
async fn a_read_of_a_damaged_blob_names_it_and_reads_beside_it_go_on() {
    let (store, repository) = in_memory().await;
    let volume = Volume::random(3 << 20, 21);
    export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    let index = repository.load_index().await.unwrap();
    let bad = Id::of(&volume.bytes[1 << 20..2 << 20]);
    let location = index.get(BlobKind::Data, &bad).unwrap().unwrap();
    store.tamper(Key::File(Kind::Data, location.pack), |bytes| bytes[location.offset as usize + 100] ^= 1);
    let image = Image::open(&repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
    let reader = ImageReader::open(image).await.unwrap();
    let mut part = vec![0; 1000];
    let error = reader.read_at((1 << 20) + 5, &mut part).await.unwrap_err();
    assert!(chain(&error).contains(&bad.to_string()), "{error}");
    for start in [5, (3 << 20) - 1000] {
        reader.read_at(start as u64, &mut part).await.unwrap();
        assert!(part == volume.bytes[start..start + 1000]);
    }
    assert!(reader.read_at(0, &mut vec![0; 3 << 20]).await.is_err());
}
