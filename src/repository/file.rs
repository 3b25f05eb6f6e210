//! Objects that are one sealed JSON document: snapshots, index files and locks.
//!
//! Before it is sealed, such a document is the byte 2 and then zstd-compressed JSON. JSON by itself, as version 1 wrote it, is read
//! as well.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::cache::Cached;
use super::crypto::Sealer;
use super::damage::Damage;
use super::error::{PackError, RepositoryError};
use super::id::Id;
use super::open::Repository;
use super::store::{Key, Kind, PutMode, StoreError};
use crate::failpoint;
use crate::scratch::Spill;

const COMPRESSED: u8 = 2;
const LEVEL: i32 = 3;
/// An index file of 50 000 blobs has 10 MB; what is much larger than that is an attack or an accident.
const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// The JSON of a document that is to be stored as this kind of object.
pub(super) fn to_json(kind: Kind, document: &impl Serialize) -> Result<Vec<u8>, RepositoryError> {
    serde_json::to_vec(document).map_err(|source| RepositoryError::Json { what: called(kind), source })
}

/// Compresses and seals a document.
pub(super) fn encode(sealer: &Sealer, json: &[u8]) -> Result<Vec<u8>, RepositoryError> {
    let compressed = zstd::bulk::compress(json, LEVEL).map_err(PackError::Compressor)?;
    let mut plain = Vec::with_capacity(compressed.len() + 1);
    plain.push(COMPRESSED);
    plain.extend_from_slice(&compressed);
    Ok(sealer.seal(&plain)?)
}

/// Opens and decompresses a document.
pub(super) fn decode(sealer: &Sealer, sealed: &mut [u8]) -> Result<Vec<u8>, Damage> {
    let plain = sealer.open(sealed)?;
    match plain.split_first() {
        None => Err(Damage::TooShort),
        Some((b'{' | b'[', _)) => Ok(plain.to_vec()),
        Some((&COMPRESSED, compressed)) => {
            let mut json = Vec::new();
            let decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(Damage::compression)?;
            let read = decoder.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut json).map_err(Damage::compression)?;
            if read as u64 > MAX_DOCUMENT_BYTES {
                return Err(Damage::TooLong { limit: MAX_DOCUMENT_BYTES });
            }
            Ok(json)
        }
        Some((&encoding, _)) => Err(Damage::Encoding(encoding)),
    }
}

/// Makes sure, before it is stored, that a sealed document opens to what it was made of: one index file that does not open keeps the whole
/// repository from opening.
fn verify(sealer: &Sealer, kind: Kind, sealed: &[u8], json: &[u8]) -> Result<(), PackError> {
    let damage = match decode(sealer, &mut sealed.to_vec()) {
        Ok(decoded) if decoded == json => return Ok(()),
        Ok(decoded) => Damage::WrongHash { found: Id::of(&decoded) },
        Err(damage) => damage,
    };
    Err(PackError::CorruptedDocument { what: called(kind), damage })
}

/// What a document of this kind is called.
const fn called(kind: Kind) -> &'static str {
    match kind {
        Kind::Snapshot => "snapshot",
        Kind::Index => "index file",
        Kind::Lock => "lock",
        Kind::Key => "key file",
        Kind::Data => "pack",
    }
}

/// Names of the failure points around a delete of this kind.
const fn delete_points(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Snapshot => ["repository.forget.before", "repository.forget.after"],
        Kind::Lock => ["repository.unlock.before", "repository.unlock.after"],
        Kind::Key | Kind::Index | Kind::Data => ["repository.delete.before", "repository.delete.after"],
    }
}

/// Names of the failure points around a put of this kind.
const fn points(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Key => ["repository.key.before", "repository.key.after"],
        Kind::Snapshot => ["repository.snapshot.before", "repository.snapshot.after"],
        Kind::Index => ["repository.index.before", "repository.index.after"],
        Kind::Lock => ["repository.lock.before", "repository.lock.after"],
        Kind::Data => ["repository.pack.before", "repository.pack.after"],
    }
}

/// Awaits a put between its failure points.
async fn put_at(kind: Kind, put: impl Future<Output = Result<(), StoreError>>) -> Result<(), RepositoryError> {
    let [before, after] = points(kind);
    failpoint::hit(before);
    put.await?;
    failpoint::hit(after);
    Ok(())
}

impl Repository {
    /// Stores an object that is named by its hash.
    pub(super) async fn put_object(&self, kind: Kind, id: Id, bytes: Bytes) -> Result<(), RepositoryError> {
        put_at(kind, self.store().put(Key::File(kind, id), bytes, PutMode::Overwrite)).await
    }

    /// Stores an object that is named by its hash and may be too long for the memory.
    pub(super) async fn put_spilled_object(&self, kind: Kind, id: Id, bytes: Arc<Spill>) -> Result<(), RepositoryError> {
        put_at(kind, self.store().put_spill(Key::File(kind, id), bytes)).await
    }

    /// Deletes an object that is named by its hash.
    pub(super) async fn delete_object(&self, kind: Kind, id: Id) -> Result<(), RepositoryError> {
        let [before, after] = delete_points(kind);
        failpoint::hit(before);
        self.store().delete(Key::File(kind, id)).await?;
        failpoint::hit(after);
        Ok(())
    }

    /// Stores `document` and returns its name.
    pub(super) async fn save_document(&self, kind: Kind, document: &(impl Serialize + Sync)) -> Result<Id, RepositoryError> {
        let json = to_json(kind, document)?;
        let sealer = self.sealer();
        let sealed = tokio::task::spawn_blocking(move || {
            let sealed = encode(&sealer, &json)?;
            verify(&sealer, kind, &sealed, &json)?;
            Ok::<_, RepositoryError>(sealed)
        })
        .await??;
        let id = Id::of(&sealed);
        let bytes = Bytes::from(sealed);
        self.put_object(kind, id, bytes.clone()).await?;
        self.keep(kind, id, bytes).await?;
        Ok(id)
    }

    /// The JSON of the document `id`, after its name and its code were verified.
    pub(super) async fn load_document(&self, kind: Kind, id: Id) -> Result<Vec<u8>, RepositoryError> {
        if let Some(json) = self.load_cached(kind, id).await? {
            return Ok(json);
        }
        let key = Key::File(kind, id);
        let bytes = self.store().get(key).await?;
        let (sealer, fetched) = (self.sealer(), bytes.clone());
        let json = tokio::task::spawn_blocking(move || open(&sealer, id, fetched.into())).await?;
        let json = json.map_err(|damage| RepositoryError::damaged(key, damage))?;
        self.keep(kind, id, bytes).await?;
        Ok(json)
    }

    /// The JSON of an index file, if it is in the cache and sound.
    async fn load_cached(&self, kind: Kind, id: Id) -> Result<Option<Vec<u8>>, RepositoryError> {
        let Some(cache) = self.cache().filter(|_| kind == Kind::Index).cloned() else { return Ok(None) };
        let sealer = self.sealer();
        let read = tokio::task::spawn_blocking(move || {
            let what = Cached::Index(id);
            let file = cache.open(what)?;
            let mut sealed = Vec::new();
            let opened = match file.take(MAX_DOCUMENT_BYTES).read_to_end(&mut sealed) {
                Ok(_) => open(&sealer, id, sealed).ok(),
                Err(_) => None,
            };
            if opened.is_none() {
                cache.evict(what);
            }
            opened
        });
        Ok(read.await?)
    }

    /// Keeps an index file in the cache.
    async fn keep(&self, kind: Kind, id: Id, bytes: Bytes) -> Result<(), RepositoryError> {
        if let Some(cache) = self.cache().filter(|_| kind == Kind::Index).cloned() {
            let put = move || cache.put(Cached::Index(id), |file| file.write_all(&bytes));
            tokio::task::spawn_blocking(put).await?;
        }
        Ok(())
    }
}

/// The JSON in the bytes of the document `id`.
fn open(sealer: &Sealer, id: Id, mut sealed: Vec<u8>) -> Result<Vec<u8>, Damage> {
    match Id::of(&sealed) {
        found if found == id => decode(sealer, &mut sealed),
        found => Err(Damage::WrongHash { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::crypto::Secrets;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn documents_read_back_and_damaged_ones_do_not(json: Vec<u8>, position: prop::sample::Index, bit in 0_u8..8) {
            let sealer = Sealer::new(Secrets::random().unwrap());
            let mut sealed = encode(&sealer, &json).unwrap();
            prop_assert!(verify(&sealer, Kind::Index, &sealed, &json).is_ok());
            prop_assert_eq!(decode(&sealer, &mut sealed.clone()).unwrap(), json.clone());
            let position = position.index(sealed.len());
            sealed[position] ^= 1 << bit;
            prop_assert!(decode(&sealer, &mut sealed).is_err());
            prop_assert!(verify(&sealer, Kind::Index, &sealed, &json).is_err());
            // What went in is not what was meant.
            let mut other = json;
            other.push(0);
            prop_assert!(verify(&sealer, Kind::Index, &encode(&sealer, &other).unwrap(), &other[..other.len() - 1]).is_err());
        }

        #[test]
        fn any_plain_bytes_are_read_or_refused(plain: Vec<u8>) {
            let sealer = Sealer::new(Secrets::random().unwrap());
            let _ = decode(&sealer, &mut sealer.seal(&plain).unwrap());
        }
    }

    #[test]
    fn a_document_of_version_1_is_read() {
        let sealer = Sealer::new(Secrets::random().unwrap());
        assert_eq!(decode(&sealer, &mut sealer.seal(b"{}").unwrap()).unwrap(), b"{}");
        assert!(matches!(decode(&sealer, &mut sealer.seal(b"\x07x").unwrap()), Err(Damage::Encoding(7))));
        assert!(matches!(decode(&sealer, &mut sealer.seal(b"").unwrap()), Err(Damage::TooShort)));
    }

    #[test]
    fn a_small_document_cannot_grow_without_bound() {
        let sealer = Sealer::new(Secrets::random().unwrap());
        let mut bomb = encode(&sealer, &vec![0; MAX_DOCUMENT_BYTES as usize + 1]).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert!(matches!(decode(&sealer, &mut bomb), Err(Damage::TooLong { .. })));
    }
}
