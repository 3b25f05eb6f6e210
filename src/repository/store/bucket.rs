//! A bucket, or a prefix in one, as a store: what S3, Google Cloud Storage and Azure have in common behind `object_store`.
//!
//! # Conditional puts
//! [`PutMode::IfAbsent`] is a put on condition that there is nothing. A store that answers 501 has no such thing: then the object is
//! looked for first and put if it is absent, which leaves a window for a competitor. A store that ignores the condition silently has
//! the same window. The making of a repository therefore also looks before and reads back after.
//!
//! # Long objects
//! One of more than 16 MiB that is not in memory is uploaded in parts of 8 MiB, two at a time, each repeated by itself, and appears
//! when the upload is completed. An upload that fails or is dropped is aborted; of one whose process dies the store keeps the parts,
//! invisible, until the bucket's rule for incomplete uploads removes them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, MultipartId, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, RetryConfig,
};
use tokio::sync::OnceCell;

use super::contract::{Store, read_spill, spill_failed};
use super::error::StoreError;
use super::http::fault::Fault;
use super::key::{Key, Kind, Listed, PutMode};
use super::patient::Patient;
use super::s3::digest;
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::BucketLocation;
use crate::scratch::Spill;

/// Most bytes that are put at once from a spill.
const WHOLE_BYTES: u64 = 16 << 20;
/// Bytes of a part of a longer object. S3 takes 5 MiB at least, and 10 000 parts: enough for the longest tree, of 4 GiB.
const PART_BYTES: u64 = 8 << 20;
/// Parts in memory and on their way: together as much as an object that is put at once.
const PARTS_AT_A_TIME: usize = 2;

/// Switches repeating off: `object_store` knows neither what a lost answer means nor who else waits.
pub fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// The options of all back ends, which send in the clear only where that was asked for.
pub fn client_options(in_the_clear: bool) -> ClientOptions {
    ClientOptions::new().with_allow_http(in_the_clear)
}

/// The value of a variable that must be set.
pub fn required(environment: &Environment, variable: Variable) -> Result<&str, StoreError> {
    environment.get(variable).ok_or_else(|| StoreError::configuration(format!("{} is not set", variable.name())))
}

/// The store in a back end, if that could be built and the prefix is well-formed.
pub fn built<B: Bucket>(
    bucket: object_store::Result<B>,
    location: &BucketLocation,
    patient: Arc<Patient>,
) -> Result<BucketStore, StoreError> {
    let bucket = bucket.map_err(|error| StoreError::configuration(error.to_string()))?;
    BucketStore::new(Arc::new(bucket), &location.bucket, &location.prefix, patient)
}

/// A back end of `object_store` that can serve as a store.
pub trait Bucket: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Bucket for T {}

/// Makes the back end, when it is first needed.
pub type Open = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Bucket>, StoreError>> + Send + Sync>;

/// A bucket, or a prefix in one.
pub struct BucketStore {
    open: Open,
    opened: OnceCell<Arc<dyn Bucket>>,
    name: String,
    prefix: Path,
    patient: Arc<Patient>,
    storage_class: Option<String>,
}

impl fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketStore").field("bucket", &self.name).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl BucketStore {
    /// The objects below `prefix` in the bucket called `name`. The steps of long puts are waited for by `patient`.
    pub fn new(bucket: Arc<dyn Bucket>, name: &str, prefix: &str, patient: Arc<Patient>) -> Result<Self, StoreError> {
        Self::opened_by(Box::new(move || Box::pin(std::future::ready(Ok(Arc::clone(&bucket))))), name, prefix, patient)
    }

    /// The same in a back end that `open` makes: called until it succeeds once.
    pub fn opened_by(open: Open, name: &str, prefix: &str, patient: Arc<Patient>) -> Result<Self, StoreError> {
        let prefix = Path::parse(prefix).map_err(StoreError::configuration)?;
        Ok(Self { open, opened: OnceCell::new(), name: name.to_owned(), prefix, patient, storage_class: None })
    }

    /// The same, whose objects are stored in this class. Into a class that must be thawed before it is read go only packs, as with restic:
    /// without the rest not even a listing would work.
    pub fn with_storage_class(self, storage_class: Option<String>) -> Self {
        Self { storage_class, ..self }
    }

    fn attributes(&self, key: Key) -> Attributes {
        let class = self.storage_class.as_ref().filter(|class| is_data(key) || !is_archive(class));
        class.map(|class| (Attribute::StorageClass, class.clone())).into_iter().collect()
    }

    async fn bucket(&self) -> Result<&Arc<dyn Bucket>, StoreError> {
        self.opened.get_or_try_init(|| (self.open)()).await
    }

    fn path(&self, key: Key) -> Path {
        key.path().split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The error of a call that needs no object to exist, only the bucket.
    fn classify_of_bucket(&self, object: String, error: object_store::Error) -> StoreError {
        let said = deepest(&error);
        let unnamed = ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| said.contains(code));
        match classify(object, error) {
            error if !unnamed && !error.is_not_found() => error,
            _ => StoreError::configuration(format!("there is no bucket `{}`; create it first", self.name)),
        }
    }

    async fn put_whole(
        &self,
        bucket: &dyn Bucket,
        key: Key,
        bytes: Bytes,
        mode: object_store::PutMode,
    ) -> Result<(), object_store::Error> {
        let options = PutOptions { mode, attributes: self.attributes(key), ..PutOptions::default() };
        digest::of(key, &bytes, bucket.put_opts(&self.path(key), bytes.clone().into(), options)).await.map(drop)
    }

    async fn put_if_absent(&self, key: Key, bytes: Bytes) -> Result<(), StoreError> {
        match self.put_whole(&**self.bucket().await?, key, bytes.clone(), object_store::PutMode::Create).await {
            Err(error) if is_not_implemented(&error) => {
                tracing::warn!(object = %key, "the store has no conditional put; looking before putting instead");
                if self.size(key).await?.is_some() {
                    return Err(StoreError::AlreadyExists { object: key.path() });
                }
                self.put(key, bytes, PutMode::Overwrite).await
            }
            result => result.map_err(|error| self.classify_of_bucket(key.path(), error)),
        }
    }

    async fn put_in_parts(&self, key: Key, spill: Arc<Spill>) -> Result<(), StoreError> {
        let (path, length) = (self.path(key), spill.len());
        let failed = |error| self.classify_of_bucket(key.path(), error);
        let bucket = self.bucket().await?;
        let options = PutMultipartOptions { attributes: self.attributes(key), ..PutMultipartOptions::default() };
        let id = bucket.create_multipart_opts(&path, options).await.map_err(failed)?;
        let mut upload = Upload { bucket: Arc::clone(bucket), path, id: Some(id.clone()) };
        let put = async {
            let parts = futures::stream::iter(0..length.div_ceil(PART_BYTES))
                .map(|number| self.put_part(key, &id, number, Arc::clone(&spill)))
                .buffered(PARTS_AT_A_TIME);
            let parts: Vec<PartId> = parts.try_collect().await?;
            let complete = || -> BoxFuture<'_, _> {
                let completed = bucket.complete_multipart(&upload.path, &id, parts.clone());
                Box::pin(async move { completed.await.map_err(failed) })
            };
            match self.patient.put(complete).await {
                Ok(_) => Ok(()),
                // An answer that was lost: the upload is gone because it was completed.
                Err(error) if self.size(key).await? != Some(length) => Err(error),
                Err(_) => Ok(()),
            }
        };
        match put.await {
            Ok(()) => {
                upload.id = None;
                Ok(())
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    async fn put_part(&self, key: Key, id: &MultipartId, number: u64, spill: Arc<Spill>) -> Result<PartId, StoreError> {
        let range = number * PART_BYTES..((number + 1) * PART_BYTES).min(spill.len());
        let part = tokio::task::spawn_blocking(move || read_spill(&spill, range)).await;
        let part = part.map_err(|error| StoreError::Unavailable { object: key.path(), source: error.into() })?;
        let part = part.map_err(|error| spill_failed(key, error))?;
        let (bucket, path) = (self.bucket().await?, &self.path(key));
        let put = || -> BoxFuture<'_, _> {
            let put = bucket.put_part(path, id, number as usize, part.clone().into());
            Box::pin(async move { put.await.map_err(|error| self.classify_of_bucket(key.path(), error)) })
        };
        self.patient.put(put).await
    }

    async fn read_range(&self, key: Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let expected = range.end;
        let wanted = range.end.saturating_sub(range.start);
        let read = self.bucket().await?.get_range(&self.path(key), range).await;
        let error = match read {
            Ok(bytes) if bytes.len() as u64 == wanted => return Ok(bytes),
            Ok(short) => StoreError::Truncated { object: key.path(), expected: wanted, found: short.len() as u64 },
            Err(error) => match classify(key.path(), error) {
                // Stores answer a range beyond the end by an error or by less; the size says which it was.
                error @ StoreError::Io { .. } => error,
                // What `object_store` finds wrong with an answer has no status.
                error @ StoreError::Unavailable { .. } => error,
                error => return Err(error),
            },
        };
        match self.size(key).await? {
            Some(found) if found < expected => Err(StoreError::Truncated { object: key.path(), expected, found }),
            _ => Err(error),
        }
    }
}

/// An upload in parts that is neither completed nor aborted; aborts it when it is dropped.
struct Upload {
    bucket: Arc<dyn Bucket>,
    path: Path,
    id: Option<MultipartId>,
}

impl Upload {
    async fn abort(&mut self) {
        if let Some(id) = self.id.take()
            && let Err(error) = self.bucket.abort_multipart(&self.path, &id).await
        {
            tracing::warn!(object = %self.path, error = deepest(&error), "an upload in parts could not be aborted");
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            let mut upload = Self { bucket: Arc::clone(&self.bucket), path: self.path.clone(), id: Some(id) };
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

fn is_data(key: Key) -> bool {
    matches!(key, Key::File(Kind::Data, _))
}

fn is_archive(class: &str) -> bool {
    matches!(class, "GLACIER" | "DEEP_ARCHIVE")
}

/// The text of the deepest cause: those above it may name an address with a signature in it.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

fn is_not_implemented(error: &object_store::Error) -> bool {
    use object_store::Error;
    match (error, Fault::behind(error)) {
        (Error::NotImplemented { .. } | Error::NotSupported { .. }, _) => true,
        (_, Some(Fault::Answer(answer))) => answer.status() == 501,
        _ => false,
    }
}

fn classify(object: String, error: object_store::Error) -> StoreError {
    use object_store::Error;
    if let Some(fault) = Fault::behind(&error) {
        return fault.meaning(object);
    }
    let source = deepest(&error).into();
    match error {
        Error::NotFound { .. } => StoreError::NotFound { object },
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StoreError::AlreadyExists { object },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied { object, source },
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => StoreError::Configuration(source),
        // An error in the body of an answer that began well, or an answer that makes no sense.
        _ => StoreError::Unavailable { object, source },
    }
}

impl Store for BucketStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // Folders are only prefixes of names here, and a bucket is made by its owner.
        Box::pin(std::future::ready(Ok(())))
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match mode {
                PutMode::IfAbsent => self.put_if_absent(key, bytes).await,
                PutMode::Overwrite => {
                    let put = self.put_whole(&**self.bucket().await?, key, bytes, object_store::PutMode::Overwrite).await;
                    put.map_err(|error| self.classify_of_bucket(key.path(), error))
                }
            }
        })
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if bytes.len() > WHOLE_BYTES {
                return self.put_in_parts(key, bytes).await;
            }
            let bytes = read_spill(&bytes, 0..bytes.len()).map_err(|error| spill_failed(key, error))?;
            self.patient.put(|| self.put(key, bytes.clone(), PutMode::Overwrite)).await
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let bucket = self.bucket().await?;
            let read = async { bucket.get(&self.path(key)).await?.bytes().await };
            read.await.map_err(|error| classify(key.path(), error))
        })
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.read_range(key, range))
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(async move {
            let folder = self.prefix.clone().join(kind.folder());
            let named = self.bucket().await?.list(Some(&folder)).try_filter_map(|object| {
                let id = object.location.filename().and_then(|name| name.parse().ok());
                std::future::ready(Ok(id.map(|id| Listed { id, bytes: object.size })))
            });
            named.try_collect().await.map_err(|error| self.classify_of_bucket(kind.folder().to_owned(), error))
        })
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async move {
            match self.bucket().await?.head(&self.path(key)).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(classify(key.path(), error)),
            }
        })
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match self.bucket().await?.delete(&self.path(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(classify(key.path(), error)),
            }
        })
    }
}
