//! A directory as a store, laid out as restic does: any restic can use it, and this program any directory of restic's.
//!
//! # Durable steps of a put
//! 1. write `NAME-tmp-RANDOM` beside the final name, mode 0400; fsync it;
//! 2. rename it to the final name, or link it there when the object must not exist yet;
//! 3. fsync the directory.
//!
//! A crash before 2 leaves a temporary file that no reader takes for an object; [`sweep`](super::Store::sweep) removes it when
//! it is a day old. A crash between 2 and 3 leaves the whole object or none. Directories are 0700, since names and sizes of
//! objects tell something too.
//!
//! All file operations run on the runtime's blocking threads and finish there even when the caller went away.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::contract::Store;
use super::error::StoreError;
use super::key::{Key, Kind, Listed, PutMode};
use crate::repository::id::Id;
use crate::scratch::Spill;

const TEMPORARY: &str = "-tmp-";
/// Bytes of a long object that are copied at once.
const COPY_STEP_BYTES: usize = 1 << 20;

/// A directory of this machine, or one mounted from elsewhere.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// The store in the directory `root`, which need not exist before [`Store::prepare`].
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, key: Key) -> PathBuf {
        self.root.join(key.path())
    }

    fn run<T: Send + 'static>(
        &self,
        object: String,
        work: impl FnOnce(&Self, String) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let store = self.clone();
        Box::pin(async move {
            let failed = object.clone();
            tokio::task::spawn_blocking(move || work(&store, object))
                .await
                .unwrap_or_else(|error| Err(StoreError::Unavailable { object: failed, source: error.into() }))
        })
    }

    fn prepare_now(&self) -> io::Result<()> {
        make_directory(&self.root)?;
        for kind in Kind::ALL {
            make_directory(&self.root.join(kind.folder()))?;
        }
        let data = self.root.join(Kind::Data.folder());
        for first in 0..=u8::MAX {
            make_directory(&data.join(format!("{first:02x}")))?;
        }
        sync_directory(&data)?;
        sync_directory(&self.root)?;
        // The root's own name too; the parent may be unreadable to us, which is then its owner's business.
        match self.root.parent().map_or(Ok(()), sync_directory) {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    fn put_now(&self, path: &Path, mode: PutMode, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let mut prefix = name.to_owned();
        prefix.push(TEMPORARY);
        let create =
            || tempfile::Builder::new().prefix(&prefix).permissions(Permissions::from_mode(0o600)).tempfile_in(directory);
        let mut temporary = match create() {
            // Repositories that old programs made lack some of the 256 directories.
            Err(error) if error.kind() == ErrorKind::NotFound && self.root.is_dir() => {
                make_directory(directory)?;
                directory.parent().map_or(Ok(()), sync_directory)?;
                create()?
            }
            other => other?,
        };
        write(temporary.as_file_mut())?;
        match temporary.as_file().set_permissions(Permissions::from_mode(0o400)) {
            // File systems without modes (CIFS, some of FUSE) refuse; restic leaves it at that too.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            other => other?,
        }
        temporary.as_file().sync_all()?;
        match mode {
            PutMode::Overwrite => temporary.persist(path),
            PutMode::IfAbsent => temporary.persist_noclobber(path),
        }
        .map_err(|failure| failure.error)?;
        sync_directory(directory)
    }

    fn list_now(&self, kind: Kind) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        self.visit(kind, |entry| {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<Id>().ok()) else { return Ok(()) };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => found.push(Listed { id, bytes: metadata.len() }),
                Ok(_) => {}
                // Deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn visit(&self, kind: Kind, mut each: impl FnMut(&fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
        let folder = self.root.join(kind.folder());
        if kind != Kind::Data {
            return fs::read_dir(folder)?.try_for_each(|entry| each(&entry?));
        }
        for directory in fs::read_dir(folder)? {
            let directory = directory?;
            let shard =
                directory.file_name().to_str().is_some_and(|name| name.len() == 2 && u8::from_str_radix(name, 16).is_ok());
            if shard {
                fs::read_dir(directory.path())?.try_for_each(|entry| each(&entry?))?;
            }
        }
        Ok(())
    }

    fn sweep_now(&self, older_than: Duration) -> io::Result<u64> {
        let Some(limit) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
        let mut removed = 0;
        for kind in Kind::ALL {
            self.visit(kind, |entry| {
                let name = entry.file_name();
                let ours =
                    name.to_str().and_then(|name| name.split_once(TEMPORARY)).is_some_and(|(id, _)| id.parse::<Id>().is_ok());
                if ours && entry.metadata()?.modified()? < limit {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
                Ok(())
            })?;
        }
        Ok(removed)
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    // Recursive: it may exist already.
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if cannot_be_synced(&error) => Ok(()),
        other => other,
    }
}

/// Whether a file system has no way to sync a directory (CIFS, some of FUSE): then the server makes names durable, or nobody does. restic
/// leaves it at that too.
fn cannot_be_synced(error: &io::Error) -> bool {
    [libc::EINVAL, libc::ENOTSUP].map(Some).contains(&error.raw_os_error())
}

fn read_range(path: &Path, range: &Range<u64>) -> Result<Bytes, ReadError> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| ErrorKind::InvalidInput)?;
    let file = File::open(path)?;
    // Asked before the buffer is made, so that a nonsensical range costs nothing.
    let size = file.metadata()?.len();
    if size < range.end {
        return Err(ReadError::Short(size));
    }
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

enum ReadError {
    Io(io::Error),
    Short(u64),
}

impl<E: Into<io::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

fn classify(object: String, error: io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => StoreError::NotFound { object },
        ErrorKind::AlreadyExists => StoreError::AlreadyExists { object },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Denied { object, source: error.into() },
        // A network file system that is away for a while.
        ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle => StoreError::Unavailable { object, source: error.into() },
        _ => StoreError::Io { object, source: error },
    }
}

impl Store for LocalStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(self.root.display().to_string(), |store, object| store.prepare_now().map_err(|error| classify(object, error)))
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(key.path(), move |store, object| {
            store.put_now(&store.path(key), mode, |file| file.write_all(&bytes)).map_err(|error| classify(object, error))
        })
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(key.path(), move |store, object| {
            let copy = |file: &mut File| {
                let mut reader = BufReader::with_capacity(COPY_STEP_BYTES, bytes.reader(0));
                io::copy(&mut reader, file).map(drop)
            };
            store.put_now(&store.path(key), PutMode::Overwrite, copy).map_err(|error| classify(object, error))
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.run(key.path(), move |store, object| {
            let read = || {
                let mut buffer = Vec::new();
                File::open(store.path(key))?.read_to_end(&mut buffer)?;
                Ok(buffer.into())
            };
            read().map_err(|error| classify(object, error))
        })
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.run(key.path(), move |store, object| {
            read_range(&store.path(key), &range).map_err(|error| match error {
                ReadError::Io(error) => classify(object, error),
                ReadError::Short(found) => StoreError::Truncated { object, expected: range.end, found },
            })
        })
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        self.run(kind.folder().to_owned(), move |store, object| store.list_now(kind).map_err(|error| classify(object, error)))
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.run(key.path(), move |store, object| match fs::metadata(store.path(key)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(classify(object, error)),
        })
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(key.path(), move |store, object| {
            let path = store.path(key);
            match fs::remove_file(&path) {
                Ok(()) => path.parent().map_or(Ok(()), sync_directory).map_err(|error| classify(object, error)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(classify(object, error)),
            }
        })
    }

    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.run(self.root.display().to_string(), move |store, object| {
            store.sweep_now(older_than).map_err(|error| classify(object, error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::store::conformance;

    #[tokio::test]
    async fn a_directory_keeps_every_promise_of_a_store() {
        let folder = tempfile::tempdir().unwrap();
        conformance::keeps_its_promises(&LocalStore::new(folder.path().join("a/repository"))).await;
    }

    #[test]
    fn a_directory_that_cannot_be_synced_is_told_from_one_whose_sync_failed() {
        for (code, passes) in [(libc::EINVAL, true), (libc::ENOTSUP, true), (libc::EIO, false), (libc::ENOSPC, false)] {
            assert_eq!(cannot_be_synced(&io::Error::from_raw_os_error(code)), passes, "{code}");
        }
        // A pipe is what this kernel says so of.
        let (reader, _writer) = io::pipe().unwrap();
        let error = File::from(std::os::fd::OwnedFd::from(reader)).sync_all().unwrap_err();
        assert!(cannot_be_synced(&error), "{error}");
    }

    #[tokio::test]
    async fn the_layout_is_restic_s() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().to_owned());
        store.prepare().await.unwrap();
        let id = Id::of(b"x");
        store.put(Key::File(Kind::Data, id), Bytes::from_static(b"x"), PutMode::Overwrite).await.unwrap();
        let path = folder.path().join("data").join(&id.to_string()[..2]).join(id.to_string());
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 256);
        for name in ["keys", "snapshots", "index", "locks"] {
            assert_eq!(fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[tokio::test]
    async fn leftovers_are_no_objects_and_are_swept_when_old() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().to_owned());
        store.prepare().await.unwrap();
        let leftover = folder.path().join("index").join(format!("{}-tmp-abc", Id::of(b"")));
        fs::write(&leftover, "half").unwrap();
        assert_eq!(store.list(Kind::Index).await.unwrap(), []);
        assert_eq!(store.sweep(Duration::from_secs(3600)).await.unwrap(), 0);
        assert_eq!(store.sweep(Duration::ZERO).await.unwrap(), 1);
        assert!(!leftover.exists());
    }
}
