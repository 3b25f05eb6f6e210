//! What a machine keeps of an export that is under way, so that another attempt at it can go on.
//!
//! One file for each export in the [cache](super::cache) of its repository: an append-only log of what the export found, in words of its
//! own. Like all that is cached it is disposable and nothing in it is trusted. Each record is sealed with the repository's key and names
//! what the export is of, so that no other file can pass for it; whoever reads it compares with the index what it says of blobs.
//!
//! | part of a record | bytes |
//! |---|---|
//! | length of the rest | 4 |
//! | sealed: magic, what the export is of, the body | 32 + 8 + 32 + any |
//!
//! **Reading** ends at the first record that is cut, forged, of another layout or of another export, and the file is cut off there, so
//! that what is appended next is found. Records before it count: each says what was true when it was written, by itself.
//!
//! **Writing** is one call for each record, to the end of the file whoever else appends to it; two exports of the same snapshot at once
//! only repeat each other. A record that cannot be written is the last that is tried, with a line in the debug log: an export does not
//! fail for its checkpoint. After a crash of the process the file holds what was written, after one of the machine what was
//! [made durable](Checkpoint::sync).
//!
//! **It goes** when its export is stored and when its snapshot is deleted; when nobody wrote to it for [`OLDEST`]; and with the rest of the
//! cache, within its bound, by age. It never grows beyond [`LIMIT_BYTES`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::cache::{CHECKPOINT, Cached, RepositoryCache};
use super::crypto::{OVERHEAD, Sealer};
use super::id::Id;
use super::open::Repository;
use crate::types::error::chain;

const MAGIC: &[u8; 8] = b"wlpoint1";
const HEADER_BYTES: usize = MAGIC.len() + Id::LENGTH;
/// Bytes of a record's body, at most.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Bytes of a file: a quarter of what the cache may hold; seven million chunks, 1.8 TiB of the smallest.
const LIMIT_BYTES: u64 = 256 << 20;
/// How long a file is of use to nobody: a sidecar asks every five minutes, and an administrator mends a Secret within days.
const OLDEST: Duration = Duration::from_secs(14 * 24 * 3600);

/// The log of one export. All calls block.
#[derive(Debug)]
pub struct Checkpoint {
    cache: RepositoryCache,
    what: Cached,
    of: Id,
    sealer: Sealer,
    log: Mutex<Log>,
}

#[derive(Debug)]
enum Log {
    /// Nothing was appended yet.
    Closed,
    Open(File),
    /// It could not be written, or is full.
    Ended,
}

impl Repository {
    /// The checkpoint of that name of an export that is `of` something; `None` where nothing is kept.
    pub fn checkpoint(&self, name: Id, of: Id) -> Option<Checkpoint> {
        let cache = self.doubts()?.clone();
        Some(Checkpoint { cache, what: Cached::Checkpoint(name), of, sealer: self.sealer(), log: Mutex::new(Log::Closed) })
    }
}

impl Checkpoint {
    /// Gives `visit` the body of each record that is whole and of this export. Checkpoints that are too old go first.
    ///
    /// # Errors
    /// Those of `visit`.
    pub fn read<E>(&self, mut visit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.sweep();
        let Some(file) = self.cache.open(self.what) else { return Ok(()) };
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let (mut whole, mut sealed) = (0, Vec::new());
        while let Some(body) = self.record(&mut reader, &mut sealed) {
            visit(body)?;
            whole += (size_of::<u32>() + OVERHEAD + HEADER_BYTES + body.len()) as u64;
        }
        self.cut_off(whole);
        Ok(())
    }

    /// The body of the next record; `None` at the end, and where there is none of this export.
    fn record<'a>(&self, reader: &mut impl Read, sealed: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let mut length = [0; size_of::<u32>()];
        reader.read_exact(&mut length).ok()?;
        let length = u32::from_be_bytes(length) as usize;
        if !(OVERHEAD + HEADER_BYTES..=OVERHEAD + HEADER_BYTES + MAX_BODY_BYTES).contains(&length) {
            return None;
        }
        sealed.resize(length, 0);
        reader.read_exact(sealed).ok()?;
        let plain = self.sealer.open(sealed).ok()?;
        let (magic, rest) = plain.split_first_chunk::<{ MAGIC.len() }>()?;
        let (of, body) = rest.split_first_chunk::<{ Id::LENGTH }>()?;
        (magic == MAGIC && Id::from_bytes(*of) == self.of).then_some(body)
    }

    /// Takes off what comes after the whole records.
    fn cut_off(&self, whole: u64) {
        let cut_off = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(self.cache.path(self.what))?;
            if file.metadata()?.len() > whole {
                tracing::warn!(checkpoint = %self.what, whole_bytes = whole, "the rest of a checkpoint is not of its export, or damaged");
                file.set_len(whole)?;
            }
            Ok(())
        };
        note(self.what, cut_off());
    }

    /// Appends a record of at most [`MAX_BODY_BYTES`].
    pub fn append(&self, body: &[u8]) {
        let mut log = self.lock();
        let appended = self.try_append(&mut log, body);
        if appended.is_err() {
            *log = Log::Ended;
        }
        note(self.what, appended);
    }

    fn try_append(&self, log: &mut Log, body: &[u8]) -> io::Result<()> {
        if matches!(log, Log::Closed) {
            *log = Log::Open(self.open()?);
        }
        let Log::Open(file) = log else { return Ok(()) };
        let mut plain = Vec::with_capacity(HEADER_BYTES + body.len());
        for part in [&MAGIC[..], self.of.as_bytes(), body] {
            plain.extend_from_slice(part);
        }
        let sealed = self.sealer.seal(&plain).map_err(io::Error::other)?;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        if file.metadata()?.len() + u64::from(length) > LIMIT_BYTES {
            *log = Log::Ended;
            return Ok(());
        }
        // One call, so that records of two exports do not mix.
        file.write_all(&[&length.to_be_bytes()[..], &sealed].concat())
    }

    fn open(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.cache.folder())?;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.cache.path(self.what))?;
        self.cache.trim()?;
        Ok(file)
    }

    /// Makes durable what was appended.
    pub fn sync(&self) {
        if let Log::Open(file) = &*self.lock() {
            note(self.what, file.sync_data());
        }
    }

    /// Removes it. Nothing is appended afterwards.
    pub fn remove(&self) {
        *self.lock() = Log::Ended;
        note(self.what, self.cache.remove(self.what));
    }

    /// Removes the repository's checkpoints that nobody wrote to for long.
    fn sweep(&self) {
        let sweep = || -> io::Result<()> {
            for file in fs::read_dir(self.cache.folder())? {
                let file = file?;
                if !file.file_name().to_str().is_some_and(|name| name.starts_with(CHECKPOINT)) {
                    continue;
                }
                // Another process may have removed it.
                let Ok(metadata) = file.metadata() else { continue };
                if SystemTime::now().duration_since(metadata.modified()?).is_ok_and(|age| age > OLDEST) {
                    fs::remove_file(file.path())?;
                }
            }
            Ok(())
        };
        match sweep() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            swept => note(self.what, swept),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // A thread that panicked meanwhile left a record that is whole, or that reading ends at.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(what: Cached, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(checkpoint = %what, error = %chain(&error), "a checkpoint could not be kept; another attempt reads more again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repository::store::memory::MemoryStore;
    use crate::repository::{Cache, KdfCost, Password};

    struct Fixture {
        folder: tempfile::TempDir,
        repository: Repository,
    }

    impl Fixture {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Arc::new(MemoryStore::new());
            let repository = Repository::init(store, &Password::new("test").unwrap(), KdfCost::TEST).await.unwrap();
            let repository = repository.with_cache(&Cache::new(folder.path().join("cache"), 1 << 20));
            Self { folder, repository }
        }

        fn checkpoint(&self, of: &[u8]) -> Checkpoint {
            self.repository.checkpoint(Id::of(b"name"), Id::of(of)).unwrap()
        }

        fn path(&self) -> std::path::PathBuf {
            let folder = self.folder.path().join("cache").join(self.repository.id().to_string());
            folder.join(Cached::Checkpoint(Id::of(b"name")).to_string())
        }
    }

    fn bodies(checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        checkpoint
            .read(|body| {
                bodies.push(body.to_vec());
                Ok::<_, io::Error>(())
            })
            .unwrap();
        bodies
    }

    #[tokio::test]
    async fn what_was_appended_is_read_by_the_same_export_and_by_no_other() {
        let fixture = Fixture::new().await;
        assert_eq!(bodies(&fixture.checkpoint(b"a")), Vec::<Vec<u8>>::new());
        let (first, second) = (fixture.checkpoint(b"a"), fixture.checkpoint(b"a"));
        first.append(b"one");
        second.append(b"two");
        first.append(b"");
        first.sync();
        assert_eq!(bodies(&fixture.checkpoint(b"a")), [&b"one"[..], b"two", b""]);
        assert_eq!(bodies(&fixture.checkpoint(b"b")), Vec::<Vec<u8>>::new());
        let other = Fixture::new().await;
        first.append(b"three");
        fs::create_dir_all(other.path().parent().unwrap()).unwrap();
        fs::copy(fixture.path(), other.path()).unwrap();
        assert_eq!(bodies(&other.checkpoint(b"a")), Vec::<Vec<u8>>::new(), "another repository's key");
        first.remove();
        first.append(b"four");
        assert!(!fixture.path().exists());
    }

    #[tokio::test]
    async fn a_record_that_is_cut_or_forged_ends_it_and_the_next_is_appended_before_that() {
        for damage in [
            |bytes: &mut Vec<u8>| bytes.truncate(170),
            |bytes: &mut Vec<u8>| bytes[170] ^= 1,
            |bytes: &mut Vec<u8>| {
                bytes[79] = 0xff;
            },
        ] {
            let fixture = Fixture::new().await;
            let checkpoint = fixture.checkpoint(b"a");
            for _ in 0..4 {
                checkpoint.append(b"ten bytes.");
            }
            let mut bytes = fs::read(fixture.path()).unwrap();
            let record = bytes.len() / 4;
            damage(&mut bytes);
            fs::write(fixture.path(), &bytes).unwrap();
            let whole = bodies(&fixture.checkpoint(b"a")).len();
            assert!(whole < 4);
            assert_eq!(fs::metadata(fixture.path()).unwrap().len(), (whole * record) as u64);
            fixture.checkpoint(b"a").append(b"later");
            assert_eq!(bodies(&fixture.checkpoint(b"a")).last().unwrap(), b"later");
        }
    }

    #[tokio::test]
    async fn one_that_nobody_wrote_to_for_long_goes_and_a_place_that_is_no_directory_keeps_none() {
        let fixture = Fixture::new().await;
        fixture.checkpoint(b"a").append(b"old");
        let old = SystemTime::now() - OLDEST - Duration::from_secs(60);
        File::options().write(true).open(fixture.path()).unwrap().set_modified(old).unwrap();
        assert_eq!(bodies(&fixture.checkpoint(b"a")), Vec::<Vec<u8>>::new());
        assert!(!fixture.path().exists());
        fs::remove_dir_all(fixture.folder.path().join("cache")).unwrap();
        fs::write(fixture.folder.path().join("cache"), "a file").unwrap();
        let checkpoint = fixture.checkpoint(b"a");
        checkpoint.append(b"nowhere");
        checkpoint.sync();
        assert_eq!(bodies(&checkpoint), Vec::<Vec<u8>>::new());
        checkpoint.remove();
    }
}
