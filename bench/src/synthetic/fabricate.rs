//! An export of a full volume, without its packs: index files, tree and snapshot.

use serde_json::json;
use windlass::repository::time::rfc3339;
use windlass::repository::tree::{Content, NewFile, NewFolder, pack_folder_beside, pack_tree};
use windlass::repository::{
    BlobKind, Compressor, Id, IndexWriter, LockMode, LockOwner, PackBuilder, PackRecord, PackedBlob, Repository, RepositoryError,
    Snapshot, Verification,
};
use windlass::scratch::ScratchError;
use windlass::transfer::ChunkSize;
use windlass::types::Timestamp;

use super::{FOLDER, PATH, metadata};
use crate::error::{BenchError, While};
use crate::product::{RepositoryArguments, print};

/// Chunks of a pack: what a chunk that compresses to a third makes of 16 MiB.
const CHUNKS_OF_PACK: u64 = 48;

/// The list of a volume of so many chunks, none like another.
struct Chunks(u64);

fn id(number: u64) -> Id {
    Id::of(&number.to_le_bytes())
}

impl Content for Chunks {
    fn ids(&self) -> Box<dyn Iterator<Item = Result<Id, ScratchError>> + '_> {
        Box::new((0..self.0).map(|number| Ok(id(number))))
    }
}

/// Stores index files of so many blobs that no snapshot refers to.
pub(super) async fn index(arguments: &RepositoryArguments, blobs: u64) -> Result<(), BenchError> {
    let repository = arguments.open().await?;
    let written = write_index(&mut IndexWriter::new(repository.clone()), blobs, ChunkSize::MIN.bytes(), 1 << 40).await;
    written.while_doing(|| "fabricating an index".to_owned())?;
    print(json!({ "blobs": blobs }), json!({}))
}

/// Stores locks of so many other hosts.
pub(super) async fn locks(arguments: &RepositoryArguments, count: u64) -> Result<(), BenchError> {
    let repository = arguments.open().await?;
    let lock = async |number: u64| {
        let owner = LockOwner { hostname: format!("host-{number}"), username: "root".to_owned(), process: 1 };
        repository.clone().with_lock_owner(owner).lock(LockMode::Shared).await
    };
    for lock in futures::future::join_all((0..count).map(lock)).await {
        // It is to stay when this process has ended.
        std::mem::forget(lock.while_doing(|| "locking".to_owned())?);
    }
    print(json!({ "locks": count }), json!({}))
}

/// Adds so many blobs in packs, whose ids follow from `first` on.
async fn write_index(writer: &mut IndexWriter, blobs: u64, chunk_bytes: u64, first: u64) -> Result<(), RepositoryError> {
    for start in (0..blobs).step_by(CHUNKS_OF_PACK as usize) {
        let blob = |number: u64| PackedBlob {
            id: id(first + number),
            kind: BlobKind::Data,
            offset: ((number - start) * (chunk_bytes / 3)) as u32,
            length: (chunk_bytes / 3) as u32,
            uncompressed_length: std::num::NonZeroU32::new(chunk_bytes as u32),
        };
        let packed = (start..(start + CHUNKS_OF_PACK).min(blobs)).map(blob).collect();
        writer.add(PackRecord { id: id(u64::MAX - first - start), blobs: packed }).await?;
    }
    writer.flush().await
}

pub(super) async fn run(arguments: &RepositoryArguments, size: u64) -> Result<(), BenchError> {
    let repository = arguments.open().await?;
    let chunks = store(&repository, size).await.while_doing(|| "fabricating an export".to_owned())?;
    print(json!({ "size_bytes": size, "chunks": chunks }), json!({}))
}

async fn store(repository: &Repository, size: u64) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let chunk_bytes = ChunkSize::for_volume(size).bytes();
    let chunks = size / chunk_bytes;
    let lock = repository.lock(LockMode::Shared).await?;
    let mut writer = IndexWriter::new(repository.clone());
    write_index(&mut writer, chunks, chunk_bytes, 0).await?;

    let (sealer, scratch, modified) = (repository.sealer(), repository.scratch(), Timestamp::now());
    let text = metadata(size, "first").to_bytes()?;
    let mut pack = PackBuilder::new(sealer.clone(), BlobKind::Data, 1 << 20, Verification::Decode);
    pack.add(Id::of(&text), &text, &mut Compressor::new(1)?)?;
    if let Some(pack) = pack.finish()? {
        repository.put_pack(&pack).await?;
        writer.add(pack.record).await?;
    }
    let image = NewFile { name: "volume.img", size, modified, content: &Chunks(chunks) };
    let beside = NewFile { name: "meta.json", size: text.len() as u64, modified, content: &vec![Id::of(&text)] };
    let folder = pack_tree(scratch, &sealer, &[image])?;
    let root = pack_folder_beside(scratch, &sealer, &NewFolder { name: FOLDER, modified, tree: folder.id }, &beside)?;
    for tree in [&folder, &root] {
        repository.put_tree(tree).await?;
        writer.add(tree.record.clone()).await?;
    }
    writer.finish().await?;
    let snapshot = Snapshot {
        time: rfc3339(modified),
        tree: root.id,
        paths: vec![PATH.to_owned()],
        hostname: "bench".to_owned(),
        username: String::new(),
        tags: Vec::new(),
        parent: None,
        original: None,
        program_version: "windlass-bench".to_owned(),
        summary: None,
    };
    repository.save_snapshot(&snapshot, &lock).await?;
    lock.release().await?;
    Ok(chunks)
}
