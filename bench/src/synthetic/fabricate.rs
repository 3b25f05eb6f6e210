//! An export of a full volume: index files, tree and snapshot, and the names of packs that are [made up](crate::product::fabricated).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use windlass::repository::time::rfc3339;
use windlass::repository::tree::{Content, NewFile, NewFolder, pack_folder_beside, pack_tree};
use windlass::repository::{
    BlobKind, Compressor, Id, Index, IndexWriter, LockMode, LockOwner, PackBuilder, PackRecord, PackedBlob, Repository, Snapshot,
    Verification,
};
use windlass::scratch::{Scratch, ScratchError};
use windlass::transfer::ChunkSize;
use windlass::types::Timestamp;

use super::{FOLDER, PATH, metadata};
use crate::error::{BenchError, While};
use crate::product::fabricated::{FabricatedPack, Register};
use crate::product::{RepositoryArguments, print};

/// Chunks of a pack: what a chunk that compresses to a third makes of 16 MiB.
const CHUNKS_OF_PACK: u64 = 48;
/// Bytes of a sealed blob. Nothing lies in it; it is short so that packs can be made up and hashed in no time.
const SEALED_BYTES: u32 = 40;

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
    let what = || "fabricating an index".to_owned();
    let mut register = Register::open(Path::new(&arguments.repository)).while_doing(what)?;
    let mut writer = IndexWriter::new(repository.clone());
    write_index(&mut writer, &mut register, blobs, ChunkSize::MIN.bytes(), 1 << 40).await.while_doing(what)?;
    register.finish().while_doing(what)?;
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
async fn write_index(
    writer: &mut IndexWriter,
    register: &mut Register,
    blobs: u64,
    chunk_bytes: u64,
    first: u64,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes_of = PackLengths::default();
    for start in (0..blobs).step_by(CHUNKS_OF_PACK as usize) {
        let blob = |number: u64| PackedBlob {
            id: id(first + number),
            kind: BlobKind::Data,
            offset: (number - start) as u32 * SEALED_BYTES,
            length: SEALED_BYTES,
            uncompressed_length: std::num::NonZeroU32::new(chunk_bytes as u32),
        };
        let blobs = (start..(start + CHUNKS_OF_PACK).min(blobs)).map(blob).collect();
        let mut record = PackRecord { id: Id::of(b"not named yet"), blobs };
        let pack = FabricatedPack::new(first + start, bytes_of.get(&record)?);
        record.id = pack.id;
        register.add(pack)?;
        writer.add(record).await?;
    }
    Ok(writer.flush().await?)
}

/// How long packs are by what they hold, as an index knows it. Almost all hold the same.
#[derive(Default)]
struct PackLengths(BTreeMap<usize, u64>);

impl PackLengths {
    fn get(&mut self, record: &PackRecord) -> Result<u64, ScratchError> {
        if let Some(bytes) = self.0.get(&record.blobs.len()) {
            return Ok(*bytes);
        }
        let mut bytes = 0;
        Index::of(&Scratch::of_process(), [record])?.each_pack(|pack| bytes = pack.bytes)?;
        self.0.insert(record.blobs.len(), bytes);
        Ok(bytes)
    }
}

pub(super) async fn run(arguments: &RepositoryArguments, size: u64) -> Result<(), BenchError> {
    let repository = arguments.open().await?;
    let folder = Path::new(&arguments.repository);
    let (snapshot, chunks) = store(&repository, folder, size).await.while_doing(|| "fabricating an export".to_owned())?;
    print(json!({ "size_bytes": size, "chunks": chunks, "snapshot": snapshot.to_string() }), json!({}))
}

async fn store(repository: &Repository, folder: &Path, size: u64) -> Result<(Id, u64), Box<dyn std::error::Error + Send + Sync>> {
    let chunk_bytes = ChunkSize::for_volume(size).bytes();
    let chunks = size / chunk_bytes;
    let lock = repository.lock(LockMode::Shared).await?;
    let mut writer = IndexWriter::new(repository.clone());
    let mut register = Register::open(folder)?;
    write_index(&mut writer, &mut register, chunks, chunk_bytes, 0).await?;
    register.finish()?;

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
    let id = repository.save_snapshot(&snapshot, &lock).await?;
    lock.release().await?;
    Ok((id, chunks))
}
