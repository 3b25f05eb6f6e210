//! A whole repository by someone who has its key and means no good: valid seals and hashes around chosen trees, metadata, index
//! entries and snapshots.
//!
//! It is listed, checked, restored from, and built upon. Each of these ends, well or with an error; a restore that succeeds gave
//! as many bytes as the image has; and an export that did not build upon the hostile parent is exactly its volume.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass::block::{MemorySink, MemorySource};
use windlass::repository::check::Depth;
use windlass::repository::store::Kind;
use windlass::repository::tree::FileSelector;
use windlass::repository::{BlobKind, Compressor, Id, PackBuilder, PackRecord, Verification};
use windlass::transfer::{
    Budget, ChunkSize, ExportOptions, ExportSource, FullReason, Image, Locking, Metadata, Parent, Progress, RestoreOptions,
    Scope, Target, export, restore,
};
use windlass::types::{ByteRange, LogicalBlockSize, RangeStream, Timestamp};

use crate::fixture::{Fixture, block_on};
use crate::input::{Input, part};

const CHUNK: usize = 256 << 10;
/// Bytes of the volume that is exported, and of what is restored into.
const VOLUME: usize = 4 * CHUNK;
/// What stands in a text for an id: `$` and a letter. Blobs of data are `a` to `f`, the metadata `m`, trees `t` and `u`.
const MARK: u8 = b'$';

fn budget() -> Budget {
    Budget { memory_bytes: 192 << 20, workers: NonZeroUsize::MIN }
}

/// Blobs of data that texts can name: a chunk, small ones, and zeros of several lengths.
fn data_blobs() -> [Vec<u8>; 6] {
    let chunk = (0..CHUNK).map(|at| (at / 997) as u8).collect();
    [chunk, b"small".to_vec(), vec![0; 512], vec![0; CHUNK], vec![9; 4096], Vec::new()]
}

/// `text` with ids for its marks.
fn resolved(text: &[u8], names: &[(u8, Id)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let name = tail.first().filter(|_| byte == MARK).and_then(|letter| names.iter().find(|(name, _)| name == letter));
        match name {
            Some((_, id)) => {
                out.extend_from_slice(&id.hex());
                rest = &tail[1..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

struct Hostile {
    fixture: &'static Fixture,
    names: Vec<(u8, Id)>,
    packs: Vec<PackRecord>,
}

impl Hostile {
    fn new() -> Self {
        let fixture = Fixture::shared();
        for kind in [Kind::Data, Kind::Index, Kind::Snapshot, Kind::Lock] {
            fixture.clear(kind);
        }
        Self { fixture, names: Vec::new(), packs: Vec::new() }
    }

    fn store(&mut self, kind: BlobKind, blobs: &[(u8, Vec<u8>)]) {
        let mut builder = PackBuilder::new(self.fixture.repository.sealer(), kind, 0, Verification::Skip);
        let mut compressor = Compressor::new(1).expect("zstd");
        for (name, plain) in blobs {
            let id = Id::of(plain);
            builder.add(id, plain, &mut compressor).expect("room for a small blob");
            self.names.push((*name, id));
        }
        let pack = builder.finish().expect("random numbers").expect("a pack");
        block_on(self.fixture.repository.put_pack(&pack)).expect("a put into memory");
        self.packs.push(pack.record);
    }

    fn document(&self, kind: Kind, text: &[u8]) -> Id {
        let sealed = self.fixture.repository.sealer().seal(text).expect("random numbers");
        let id = Id::of(&sealed);
        self.fixture.put(kind, sealed);
        id
    }
}

/// Builds it, and does everything with it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut hostile = Hostile::new();
    let mut blobs: Vec<_> = (b'a'..).zip(data_blobs()).collect();
    blobs.push((b'm', input.part().to_vec()));
    hostile.store(BlobKind::Data, &blobs);
    for name in [b't', b'u'] {
        let tree = resolved(input.part(), &hostile.names);
        hostile.store(BlobKind::Tree, &[(name, tree)]);
    }
    // The index says other things than are true about some blobs.
    let lies = usize::from(input.byte() % 4);
    let mut packs = hostile.packs.clone();
    for _ in 0..lies {
        let (pack, blob) = (usize::from(input.byte()) % packs.len(), usize::from(input.byte()));
        let blobs = &mut packs[pack].blobs;
        let count = blobs.len();
        let blob = &mut blobs[blob % count];
        match input.byte() % 4 {
            0 => blob.offset = input.u32(),
            1 => blob.length = input.u32(),
            2 => blob.uncompressed_length = NonZeroU32::new(input.u32()),
            _ => blob.kind = if blob.kind == BlobKind::Data { BlobKind::Tree } else { BlobKind::Data },
        }
    }
    hostile.document(Kind::Index, json!({"packs": packs}).to_string().as_bytes());
    let snapshot = resolved(input.part(), &hostile.names);
    let snapshot = hostile.document(Kind::Snapshot, &snapshot);
    let changed = input.byte();
    block_on(read(&hostile, &snapshot));
    // An export takes longer than all the rest.
    if changed % 2 == 1 {
        block_on(build_upon(&hostile, &snapshot, changed));
    }
}

async fn read(hostile: &Hostile, snapshot: &Id) {
    let repository = &hostile.fixture.repository;
    let checked = repository.check(Depth::ReadData, &|_, _| {}).await.expect("memory does not fail, and nobody has locked");
    for which in [FileSelector::Only, FileSelector::Path("/v-test/volume.img".to_owned())] {
        let Ok(mut image) = Image::open(repository, &snapshot.to_string(), &which, Locking::None).await else { continue };
        let sink = Arc::new(MemorySink::new(VOLUME));
        let options = RestoreOptions { target: Target::Fresh, budget: budget() };
        let restored = restore(&mut image, sink.clone(), &options, &Progress::new(), &CancellationToken::new()).await;
        if let Ok(report) = restored {
            assert_eq!(report.size_bytes, image.size_bytes());
            assert!(report.size_bytes <= VOLUME as u64);
            assert!(sink.content()[report.size_bytes as usize..].iter().all(|&byte| byte == 0));
        }
        image.close().await;
    }
    // What a check finds sound can be opened, as far as there is one file.
    if checked.is_clean() && repository.snapshots().await.is_ok() {
        assert!(repository.load_index().await.is_ok());
    }
}

async fn build_upon(hostile: &Hostile, snapshot: &Id, changed: u8) {
    let repository = &hostile.fixture.repository;
    let mut bytes = vec![0; VOLUME];
    bytes[..CHUNK].copy_from_slice(&data_blobs()[0]);
    bytes[2 * CHUNK..3 * CHUNK].fill(changed);
    let stream = |list: &[(usize, usize)]| -> RangeStream {
        let list: Vec<_> = list.iter().filter_map(|&(at, length)| ByteRange::new(at as u64, length as u64)).collect();
        Box::new(list.into_iter().map(Ok))
    };
    let since = Ok(Parent {
        snapshot: *snapshot,
        volume_handle: "v-test".to_owned(),
        snapshot_handle: "s-1".to_owned(),
        size_bytes: VOLUME as u64,
        changed: stream(&[(2 * CHUNK + usize::from(changed), 1)]),
    });
    let metadata = Metadata {
        volume_handle: Some("v-test".to_owned()),
        snapshot_handle: Some("s-2".to_owned()),
        chunk_bytes: Some(CHUNK as u64),
        ..Metadata::of_size(VOLUME as u64)
    };
    let options = ExportOptions {
        path: "/v-test/volume.img".to_owned(),
        hostname: "cluster".to_owned(),
        tags: Vec::new(),
        time: Timestamp { seconds: 1_750_000_000, nanoseconds: 0 },
        metadata,
        chunk_size: ChunkSize::MIN,
        budget: budget(),
        verification: Verification::Decode,
    };
    let source = Arc::new(MemorySource::with_block_size(bytes.clone(), LogicalBlockSize::B512));
    let scope = Scope { allocated: stream(&[(0, CHUNK), (2 * CHUNK, CHUNK)]), since };
    let exported =
        export(ExportSource::new(source, scope), repository, &options, &Progress::new(), &CancellationToken::new()).await;
    let Ok(report) = exported else { return };
    if let Some(FullReason::NoParent) = report.mode.full_reason() {
        panic!("a parent was given");
    }
    let image = Image::open(repository, &report.snapshot.to_string(), &FileSelector::Only, Locking::None).await;
    // The index may lie about blobs that the export found in it and referred to: then reading them fails, and says so.
    let Ok(mut image) = image else { return };
    let sink = Arc::new(MemorySink::new(VOLUME));
    let restoring = RestoreOptions { target: Target::Fresh, budget: budget() };
    let restored = restore(&mut image, sink.clone(), &restoring, &Progress::new(), &CancellationToken::new()).await;
    assert!(
        restored.is_err() || report.mode.parent().is_some() || sink.content() == bytes,
        "{:?} gave another volume",
        report.mode
    );
    image.close().await;
}

/// A sound repository of our making, one of restic's, and lies about both.
pub fn seeds() -> Vec<Vec<u8>> {
    let metadata = Metadata {
        volume_handle: Some("v-test".to_owned()),
        snapshot_handle: Some("s-1".to_owned()),
        chunk_bytes: Some(CHUNK as u64),
        ..Metadata::of_size(VOLUME as u64)
    };
    let metadata = metadata.to_bytes().expect("JSON");
    let inner = format!(
        r#"{{"nodes":[{{"name":"meta.json","type":"file","size":{},"content":["$m"]}},{{"name":"volume.img","type":"file","size":{VOLUME},"content":["$a","$d","$a","$d"]}}]}}"#,
        metadata.len()
    );
    let outer = r#"{"nodes":[{"name":"v-test","type":"dir","subtree":"$t","content":null}]}"#;
    let flat = r#"{"nodes":[{"name":"disk.img","type":"file","size":5,"content":["$b"]}]}"#;
    let snapshot = |tree: char| {
        format!(r#"{{"time":"2026-01-01T10:00:00Z","tree":"${tree}","paths":["/v-test/volume.img"],"hostname":"cluster"}}"#)
    };
    let hostile = |metadata: &[u8], trees: [&str; 2], lies: &[u8], snapshot: &str| {
        [&part(metadata)[..], &part(trees[0].as_bytes()), &part(trees[1].as_bytes()), lies, &part(snapshot.as_bytes()), &[7]]
            .concat()
    };
    let lie_about = |blob: u8, what: u8, number: u32| [&[1, 0, blob, what][..], &number.to_le_bytes()].concat();
    let lie = |what: u8, number: u32| lie_about(0, what, number);
    vec![
        hostile(&metadata, [&inner, outer], &[0], &snapshot('u')),
        hostile(b"", [flat, outer], &[0], &snapshot('t')),
        hostile(&metadata, [&inner, outer], &lie(0, 77), &snapshot('u')),
        hostile(&metadata, [&inner, outer], &lie(1, u32::MAX), &snapshot('u')),
        hostile(&metadata, [&inner, outer], &lie(2, u32::MAX), &snapshot('u')),
        hostile(&metadata, [&inner, outer], &lie_about(6, 2, u32::MAX), &snapshot('u')),
        hostile(&metadata, [&inner, outer], &[1, 1, 0, 3], &snapshot('u')),
    ]
}
