//! A local store that also has packs which were never written: what a repository has of other machines' volumes, where only its lists
//! matter.
//!
//! An export holds what an index says against a listing of the packs, drops the rows of those that are absent or of another length, and
//! reads some back by lot. So a fabricated pack is listed with its length, and its bytes hash to its name: they are made when they are
//! asked for, from the pack's number. That keeps packs short. They have a header's room for each blob and hardly a byte of it: no
//! blob can be read from one, and no measured case reads one.
//!
//! A **register** beside the repository's folders, which no program of the format looks at, says which packs there are. It is read anew by
//! each call that needs it, so that this takes no memory of the process that is measured.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use windlass::repository::store::{Key, Kind, Listed, PutMode};
use windlass::repository::{Id, Store, StoreError};
use windlass::scratch::Spill;

const REGISTER: &str = "fabricated-packs";
const ROW_BYTES: usize = Id::LENGTH + 16;

/// A pack that nobody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FabricatedPack {
    /// The hash of its bytes.
    pub id: Id,
    /// By which it differs from all others of its length.
    number: u64,
    bytes: u64,
}

impl FabricatedPack {
    /// The pack of that number with so many bytes, eight at least.
    pub fn new(number: u64, bytes: u64) -> Self {
        let id = Id::of(&content(number, bytes));
        Self { id, number, bytes }
    }

    fn to_row(self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        row[..Id::LENGTH].copy_from_slice(self.id.as_bytes());
        row[Id::LENGTH..Id::LENGTH + 8].copy_from_slice(&self.number.to_le_bytes());
        row[Id::LENGTH + 8..].copy_from_slice(&self.bytes.to_le_bytes());
        row
    }

    fn of_row(row: &[u8; ROW_BYTES]) -> Self {
        let (mut id, mut numbers) = ([0; Id::LENGTH], [[0; 8]; 2]);
        id.copy_from_slice(&row[..Id::LENGTH]);
        for (number, bytes) in numbers.iter_mut().zip(row[Id::LENGTH..].as_chunks::<8>().0) {
            *number = *bytes;
        }
        let [number, bytes] = numbers.map(u64::from_le_bytes);
        Self { id: Id::from_bytes(id), number, bytes }
    }
}

fn content(number: u64, bytes: u64) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    let beginning = content.len().min(8);
    content[..beginning].copy_from_slice(&number.to_le_bytes()[..beginning]);
    content
}

/// Adds packs to the register of the repository in `folder`.
pub struct Register(BufWriter<File>);

impl Register {
    /// Opens it, after what others added.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(folder.join(REGISTER))?;
        Ok(Self(BufWriter::new(file)))
    }

    /// Adds a pack.
    ///
    /// # Errors
    /// As the file system says.
    pub fn add(&mut self, pack: FabricatedPack) -> io::Result<()> {
        self.0.write_all(&pack.to_row())
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// As the file system says.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct FabricatedStore {
    inner: Arc<dyn Store>,
    register: PathBuf,
}

impl FabricatedStore {
    /// `inner`, the store in `folder`, with the packs of its register; `inner` itself where there is none.
    pub fn around(inner: Arc<dyn Store>, folder: &Path) -> Arc<dyn Store> {
        let register = folder.join(REGISTER);
        if register.exists() { Arc::new(Self { inner, register }) } else { inner }
    }

    /// Does `work` with the register, off the async threads.
    async fn with_register<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let register = self.register.clone();
        let done = tokio::task::spawn_blocking(move || work(&register)).await;
        done.unwrap_or_else(|error| Err(StoreError::Io { object: REGISTER.to_owned(), source: io::Error::other(error) }))
    }

    /// The bytes `range` of a fabricated pack, all of them if it is `None`; no bytes for what lies in the store itself.
    async fn made_up(&self, key: Key, range: Option<Range<u64>>) -> Result<Option<Bytes>, StoreError> {
        let Some(pack) = self.with_register(move |register| find(register, key)).await? else { return Ok(None) };
        let range = range.unwrap_or(0..pack.bytes);
        if range.end > pack.bytes {
            return Err(StoreError::Truncated { object: key.path(), expected: range.end, found: pack.bytes });
        }
        Ok(Some(Bytes::from(content(pack.number, pack.bytes)).slice(range.start as usize..range.end as usize)))
    }
}

/// Calls `visit` with each pack until it has seen enough.
fn each(register: &Path, mut visit: impl FnMut(FabricatedPack) -> Found) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { object: REGISTER.to_owned(), source };
    let mut register = BufReader::new(File::open(register).map_err(failed)?);
    let mut row = [0; ROW_BYTES];
    loop {
        match register.read_exact(&mut row) {
            Ok(()) if visit(FabricatedPack::of_row(&row)) == Found::Yes => return Ok(()),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
    }
}

fn find(register: &Path, key: Key) -> Result<Option<FabricatedPack>, StoreError> {
    let Key::File(Kind::Data, id) = key else { return Ok(None) };
    let mut found = None;
    each(register, |pack| {
        if pack.id != id {
            return Found::No;
        }
        found = Some(pack);
        Found::Yes
    })?;
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Yes,
    No,
}

impl Store for FabricatedStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.prepare()
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.put(key, bytes, mode)
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.put_spill(key, bytes)
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            match self.inner.get(key).await {
                Err(error) if error.is_not_found() => self.made_up(key, None).await?.ok_or(error),
                other => other,
            }
        })
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            match self.inner.get_range(key, range.clone()).await {
                Err(error) if error.is_not_found() => self.made_up(key, Some(range)).await?.ok_or(error),
                other => other,
            }
        })
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(async move {
            let mut listed = self.inner.list(kind).await?;
            if kind != Kind::Data {
                return Ok(listed);
            }
            let add = move |register: &Path| {
                each(register, |FabricatedPack { id, bytes, .. }| {
                    listed.push(Listed { id, bytes });
                    Found::No
                })?;
                Ok(listed)
            };
            self.with_register(add).await
        })
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async move {
            match self.inner.size(key).await? {
                None => Ok(self.with_register(move |register| find(register, key)).await?.map(|pack| pack.bytes)),
                found => Ok(found),
            }
        })
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.delete(key)
    }

    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.sweep(older_than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass::repository::store::local::LocalStore;

    #[tokio::test]
    async fn a_fabricated_pack_is_listed_with_its_length_and_reads_as_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let local: Arc<dyn Store> = Arc::new(LocalStore::new(folder.path().to_owned()));
        local.prepare().await.unwrap();
        let stored = Key::File(Kind::Data, Id::of(b"stored"));
        local.put(stored, Bytes::from_static(b"stored"), PutMode::Overwrite).await.unwrap();
        let packs = [FabricatedPack::new(0, 100), FabricatedPack::new(48, 3000)];
        let mut register = Register::open(folder.path()).unwrap();
        packs.iter().for_each(|pack| register.add(*pack).unwrap());
        register.finish().unwrap();

        let store = FabricatedStore::around(local, folder.path());
        let mut listed = store.list(Kind::Data).await.unwrap();
        listed.sort();
        let mut expected = vec![Listed { id: Id::of(b"stored"), bytes: 6 }];
        expected.extend(packs.map(|pack| Listed { id: pack.id, bytes: pack.bytes }));
        expected.sort();
        assert_eq!(listed, expected);
        assert_eq!(store.list(Kind::Index).await.unwrap(), []);
        for pack in packs {
            let key = Key::File(Kind::Data, pack.id);
            assert_eq!(store.size(key).await.unwrap(), Some(pack.bytes));
            let whole = store.get(key).await.unwrap();
            assert_eq!((Id::of(&whole), whole.len() as u64), (pack.id, pack.bytes));
            assert_eq!(store.get_range(key, 3..90).await.unwrap(), whole.slice(3..90));
            let beyond = store.get_range(key, 0..pack.bytes + 1).await.unwrap_err();
            assert!(matches!(beyond, StoreError::Truncated { .. }), "{beyond}");
        }
        assert_eq!(store.get(stored).await.unwrap(), Bytes::from_static(b"stored"));
        let absent = Key::File(Kind::Data, Id::of(b"absent"));
        assert!(store.get(absent).await.unwrap_err().is_not_found());
        assert_eq!(store.size(absent).await.unwrap(), None);
    }

    #[test]
    fn no_two_packs_are_called_alike() {
        let names: std::collections::BTreeSet<Id> = (0..1000).map(|number| FabricatedPack::new(number, 64).id).collect();
        assert_eq!(names.len(), 1000);
    }
}
