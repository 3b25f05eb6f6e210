//! Stores the packs of an opened repository, and reads blobs out of them, verified.

use std::ops::Range;

use bytes::Bytes;

use super::blob::{BlobKind, BlobLocation};
use super::copies::Copies;
use super::damage::Damage;
use super::error::RepositoryError;
use super::id::Id;
use super::index::Index;
use super::open::Repository;
use super::pack::{Pack, open_blob};
use super::store::{Key, Kind, StoreError};
use crate::scratch::Spill;

/// Bytes of a long blob that are fetched at once.
const FETCH_STEP_BYTES: u64 = 8 << 20;

impl Repository {
    /// Stores a pack, durably. Its blobs may be referred to once an index names it.
    pub async fn put_pack(&self, pack: &Pack) -> Result<(), RepositoryError> {
        self.keep_pace(pack.bytes.len() as u64).await;
        self.put_object(Kind::Data, pack.record.id, pack.bytes.clone()).await
    }

    /// The bytes `range` of a pack, as they are stored: for reads that fetch several blobs at once, to be opened with
    /// [`open_blob`].
    ///
    /// # Errors
    /// When the store fails or the pack is shorter than that.
    pub async fn read_pack_range(&self, pack: &Id, range: Range<u64>) -> Result<Bytes, RepositoryError> {
        let key = Key::File(Kind::Data, *pack);
        let expected = range.end.saturating_sub(range.start);
        let bytes = self.store().get_range(key, range).await?;
        match bytes.len() as u64 {
            found if found == expected => Ok(bytes),
            found => Err(StoreError::Truncated { object: key.path(), expected, found }.into()),
        }
    }

    /// Reads one blob from the first copy that does, verified. Trees of large volumes are better read with [`Repository::read_tree`], which
    /// never holds their text.
    pub async fn read_blob(&self, index: &Index, kind: BlobKind, id: &Id) -> Result<Vec<u8>, RepositoryError> {
        self.read_any_copy(kind, id, Copies::new(index, kind, id)).await
    }

    /// Reads a blob that did not read where the index says first: from there once more, then from each other copy.
    pub(crate) async fn read_blob_again(&self, index: &Index, kind: BlobKind, id: &Id) -> Result<Vec<u8>, RepositoryError> {
        self.read_any_copy(kind, id, Copies::again(index, kind, id)).await
    }

    async fn read_any_copy(&self, kind: BlobKind, id: &Id, mut copies: Copies<'_>) -> Result<Vec<u8>, RepositoryError> {
        loop {
            let location = copies.next()?;
            match self.read_blob_at(kind, id, location).await {
                Err(error) => copies.failed(&location, error)?,
                read => return read,
            }
        }
    }

    /// The blob that lies there, verified.
    pub(super) async fn read_blob_at(&self, kind: BlobKind, id: &Id, location: BlobLocation) -> Result<Vec<u8>, RepositoryError> {
        let sealed = self.read_pack_range(&location.pack, location.offset.into()..location.end()).await?;
        let (sealer, id) = (self.sealer(), *id);
        let opened = tokio::task::spawn_blocking(move || {
            let mut plain = Vec::new();
            open_blob(&sealer, &id, &location, &mut Vec::from(sealed), &mut plain).map(|()| plain)
        });
        opened.await?.map_err(|damage| damaged_blob(kind, &id, &location, damage))
    }

    /// The blob at `location` as it is stored; fetched in steps, so that it may be longer than the memory.
    pub(super) async fn read_spilled(&self, location: &BlobLocation) -> Result<Spill, RepositoryError> {
        let mut sealed = Spill::new(self.scratch());
        let mut offset = u64::from(location.offset);
        while offset < location.end() {
            let end = offset.saturating_add(FETCH_STEP_BYTES).min(location.end());
            let bytes = self.read_pack_range(&location.pack, offset..end).await?;
            sealed = tokio::task::spawn_blocking(move || sealed.append(&bytes).map(|()| sealed)).await??;
            offset = end;
        }
        Ok(sealed)
    }
}

pub(super) fn damaged_blob(kind: BlobKind, id: &Id, location: &BlobLocation, damage: Damage) -> RepositoryError {
    RepositoryError::Damaged { object: format!("{kind} blob {id} in {}", Key::File(Kind::Data, location.pack)), damage }
}
