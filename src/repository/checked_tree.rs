//! What a machine remembers of trees whose blobs were all found in an index: the packs that these lie in. The next export upon such a tree
//! need not look up again the millions of blobs that it does not read.
//!
//! **What is remembered** of a tree, by its id: the packs in which an export found or stored each blob of the tree's lists (more packs do
//! no harm), and a note of the export's own. A tree is named by its hash, and so are packs, so neither ever says anything else.
//!
//! **When it is believed**: when the index of the moment names each of these packs, with blobs of the same length together
//! ([`Index::find_packs`]). Packs that are absent, short or damaged are out of sight there ([`doubts`](super::doubts)), and so are
//! those that a prune removed or whose blobs it moved elsewhere: the list is then looked up blob by blob as if nothing were
//! remembered, and remembered again with the packs that have them now. Whether the tree itself is in the index is asked as for
//! every tree.
//!
//! **In the [cache](super::cache)**, as one sealed file for each tree, 40 bytes for each pack: 3.5 MB for 1 TiB. It is disposable: a file
//! that is cut, flipped, of another tree or sealed with another repository's key is removed, and then nothing is remembered.
//!
//! | part | bytes |
//! |---|---|
//! | magic, which names the layout | 8 |
//! | id of the tree | 32 |
//! | length of the note, the note | 4, any |
//! | packs, ascending: id, length | 40 each, to the end |

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use super::blob::PackRecord;
use super::cache::Cached;
use super::crypto::{CODE_BYTES, COUNTER_BYTES, OVERHEAD, Sealer};
use super::error::RepositoryError;
use super::id::Id;
use super::index::{Index, IndexedPack, PACK_ROW_BYTES, PackSet};
use super::open::Repository;
use crate::scratch::{Rows, RowsWriter, Scratch, ScratchError, SortedRuns, Sorter, Spill};

const MAGIC: &[u8; 8] = b"wlcheck1";
/// A note is a line of text.
const MAX_NOTE_BYTES: u32 = 64 << 10;
/// Bytes that are copied or parsed at once.
const STEP_BYTES: usize = 64 << 10;

/// What is remembered of a tree, and holds for the index that it was compared with.
#[derive(Debug)]
pub struct CheckedTree {
    /// The note of the export that remembered it.
    pub note: Vec<u8>,
    /// The packs in which the blobs of its lists lie.
    pub packs: PackSet,
}

/// The packs in which an export found or stored the blobs of a list.
#[derive(Debug)]
pub struct UsedPacks {
    stored: Sorter<PACK_ROW_BYTES>,
    found: Option<(Arc<Index>, Arc<PackSet>)>,
}

impl UsedPacks {
    pub fn none(scratch: &Scratch) -> Self {
        Self { stored: Sorter::new(scratch), found: None }
    }

    /// Adds a pack that was stored.
    pub fn stored(&mut self, record: &PackRecord) -> Result<(), ScratchError> {
        self.stored.push(IndexedPack::of(record).to_row())
    }

    /// Adds the packs of the index in which other blobs were found.
    #[must_use]
    pub fn and_found(self, index: Arc<Index>, packs: Arc<PackSet>) -> Self {
        Self { found: Some((index, packs)), ..self }
    }

    /// All packs in order. Reads the index's packs.
    fn sorted(mut self) -> Result<SortedRuns<PACK_ROW_BYTES>, ScratchError> {
        if let Some((index, packs)) = self.found {
            let mut pushed = Ok(());
            index.each_pack_of(&packs, |pack| {
                if pushed.is_ok() {
                    pushed = self.stored.push(pack.to_row());
                }
            })?;
            pushed?;
        }
        self.stored.finish_runs()
    }
}

impl Repository {
    /// Whether this machine remembers trees with so many blobs in their lists.
    pub fn remembers_trees_of(&self, blobs: u64) -> bool {
        self.segments().is_some_and(|cache| blobs >= cache.checked_from_blobs())
    }

    /// What is remembered of the tree, if `index` still names all packs that it relies upon.
    pub async fn checked_tree(&self, index: &Arc<Index>, tree: &Id) -> Result<Option<CheckedTree>, RepositoryError> {
        let Some(cache) = self.segments().cloned() else { return Ok(None) };
        let (scratch, sealer, index, tree) = (self.scratch().clone(), self.sealer(), Arc::clone(index), *tree);
        let read = tokio::task::spawn_blocking(move || {
            let what = Cached::Checked(tree);
            let Some(file) = cache.open(what) else { return Ok(None) };
            let Some(Remembered { note, packs }) = read(&scratch, &sealer, &tree, file)? else {
                cache.evict(what);
                return Ok(None);
            };
            let found = index.find_packs(&packs)?;
            if found.is_none() {
                tracing::debug!(%tree, packs = packs.len(), "packs of a list are not in the index any more; its blobs are looked up");
            }
            Ok(found.map(|packs| CheckedTree { note, packs }))
        });
        read.await?
    }

    /// Remembers that each blob in the lists of `tree` lies in one of these packs. Where nothing can be kept, nothing is.
    pub async fn remember_tree(&self, tree: Id, note: Vec<u8>, packs: UsedPacks) -> Result<(), RepositoryError> {
        let Some(cache) = self.segments().cloned() else { return Ok(()) };
        let sealer = self.sealer();
        let kept = tokio::task::spawn_blocking(move || {
            let packs = packs.sorted()?;
            cache.put(Cached::Checked(tree), |file| write(&sealer, &tree, &note, &packs, file));
            Ok(())
        });
        kept.await?
    }
}

fn write(sealer: &Sealer, tree: &Id, note: &[u8], packs: &SortedRuns<PACK_ROW_BYTES>, file: &mut File) -> io::Result<()> {
    let length = u32::try_from(note.len()).map_err(io::Error::other)?;
    let mut sealed = sealer.writer(file)?;
    for part in [&MAGIC[..], tree.as_bytes(), &length.to_be_bytes(), note] {
        sealed.write_all(part)?;
    }
    for row in packs.iter() {
        sealed.write_all(&row?)?;
    }
    sealed.finish().map(drop)
}

/// The content of a file.
struct Remembered {
    note: Vec<u8>,
    packs: Rows<PACK_ROW_BYTES>,
}

/// Reads what the file says of the tree; `None` when it is not what was written.
fn read(scratch: &Scratch, sealer: &Sealer, tree: &Id, file: File) -> Result<Option<Remembered>, RepositoryError> {
    // A copy: what was verified must be what is read then.
    let mut sealed = Spill::new(scratch);
    if let Err(error) = io::copy(&mut BufReader::with_capacity(STEP_BYTES, file), &mut sealed) {
        return not_read(error);
    }
    let length = sealed.len();
    let counter = match sealer.authenticate_stream(sealed.reader(0), length) {
        Ok(Ok(counter)) => counter,
        Ok(Err(_)) => return Ok(None),
        Err(error) => return not_read(error),
    };
    let body = sealed.reader(COUNTER_BYTES as u64).up_to(length - CODE_BYTES as u64);
    let mut plain = BufReader::with_capacity(STEP_BYTES, sealer.decrypting(&counter, body));
    match parse(scratch, tree, &mut plain, length - OVERHEAD as u64) {
        Ok(remembered) => Ok(remembered),
        Err(error) => not_read(error),
    }
}

/// Tells a failure of scratch space from a file that does not read.
fn not_read(error: io::Error) -> Result<Option<Remembered>, RepositoryError> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ScratchError>()) {
        Some(scratch) => Err(scratch.clone().into()),
        None => Ok(None),
    }
}

/// Parses `bytes` plain bytes about the tree; `None` or an error when they make no sense, or are about another one.
fn parse(scratch: &Scratch, tree: &Id, plain: &mut impl Read, bytes: u64) -> io::Result<Option<Remembered>> {
    let (mut magic, mut of, mut note_bytes) = ([0; MAGIC.len()], [0; Id::LENGTH], [0; 4]);
    plain.read_exact(&mut magic)?;
    plain.read_exact(&mut of)?;
    plain.read_exact(&mut note_bytes)?;
    let note_bytes = u32::from_be_bytes(note_bytes);
    let rows = bytes.checked_sub((MAGIC.len() + Id::LENGTH + 4) as u64 + u64::from(note_bytes));
    let rows = rows.filter(|rows| rows.is_multiple_of(PACK_ROW_BYTES as u64)).map(|rows| rows / PACK_ROW_BYTES as u64);
    let (Some(rows), true) = (rows, magic == *MAGIC && Id::from_bytes(of) == *tree && note_bytes <= MAX_NOTE_BYTES) else {
        return Ok(None);
    };
    let mut note = vec![0; note_bytes as usize];
    plain.read_exact(&mut note)?;
    let (mut packs, mut row) = (RowsWriter::new(scratch), [0; PACK_ROW_BYTES]);
    for _ in 0..rows {
        plain.read_exact(&mut row)?;
        packs.push(&row)?;
    }
    Ok(Some(Remembered { note, packs: packs.finish()? }))
}

#[cfg(test)]
mod tests;
