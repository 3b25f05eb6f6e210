//! A bucket, or a prefix in one, as a store: S3's protocol, whoever speaks it.
//!
//! # Retries and time
//! A request is repeated on connection errors, timeouts, 5xx and 429, up to eight times with growing, jittered pauses, but not
//! begun again more than three minutes after the first try. One request may take ten minutes, because a pack of 64 MiB does on
//! a line of 1 Mbit/s; a connection must stand within ten seconds.
//!
//! # Conditional puts
//! [`PutMode::IfAbsent`] is a put with `If-None-Match: *`. A store that answers 501 has no such thing: then the object is looked
//! for first and put if it is absent, which leaves a window for a competitor. A store that ignores the header silently has the
//! same window. Whoever makes a repository therefore also looks before and reads back after.
//!
//! # Long objects
//! One of more than 16 MiB that is not in memory is uploaded in parts of that size, one after another, and appears when the upload
//! is completed. An upload that fails is aborted; of one whose process dies the store keeps the parts, invisible, until the bucket's
//! rule for incomplete uploads removes them.
//!
//! Only static credentials are used: never those of the machine, the pod or a file.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutOptions, RetryConfig};

use super::{Key, Kind, Listed, PutMode, Store, StoreError};
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::S3Location;
use crate::scratch::Spill;

const REQUEST_LIMIT: Duration = Duration::from_secs(600);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Below five minutes, the time for which a request's signature is valid.
const RETRY_LIMIT: Duration = Duration::from_secs(180);
const RETRIES: usize = 8;
/// Bytes of a part of a long object. S3 takes 5 MiB at least, and 10 000 parts: enough for the longest tree, of 4 GiB.
const PART_BYTES: u64 = 16 << 20;
const DEFAULT_REGION: &str = "us-east-1";

/// A bucket, or a prefix in one.
#[derive(Debug)]
pub struct S3Store {
    bucket: AmazonS3,
    /// The same without retries.
    bucket_once: AmazonS3,
    name: String,
    prefix: Path,
}

impl S3Store {
    /// The store at `location`. Nothing is requested yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when credentials are missing or the location is malformed.
    pub fn connect(location: &S3Location, environment: &Environment) -> Result<Self, StoreError> {
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(15), base: 2.0 },
            max_retries: RETRIES,
            retry_timeout: RETRY_LIMIT,
        };
        Self::connect_with(location, environment, retry)
    }

    fn connect_with(location: &S3Location, environment: &Environment, retry: RetryConfig) -> Result<Self, StoreError> {
        let required = |variable: Variable| {
            environment.get(variable).ok_or_else(|| StoreError::Configuration(format!("{} is not set", variable.name())))
        };
        let plain_http = location.endpoint.starts_with("http://");
        let client =
            ClientOptions::new().with_timeout(REQUEST_LIMIT).with_connect_timeout(CONNECT_LIMIT).with_allow_http(plain_http);
        let region = environment
            .get(Variable::AwsRegion)
            .or_else(|| environment.get(Variable::AwsDefaultRegion))
            .or_else(|| region_of(&location.endpoint))
            .unwrap_or(DEFAULT_REGION);
        let mut builder = AmazonS3Builder::new()
            .with_access_key_id(required(Variable::AwsAccessKeyId)?)
            .with_secret_access_key(required(Variable::AwsSecretAccessKey)?)
            .with_bucket_name(&location.bucket)
            .with_region(region)
            // A bulk delete needs a permission and a dialect that not every store has.
            .with_disable_bulk_delete(true)
            .with_client_options(client);
        // Amazon's global name answers only for one region; without an endpoint the right regional one is derived.
        if location.endpoint != "https://s3.amazonaws.com" {
            builder = builder.with_endpoint(&location.endpoint);
        }
        if let Some(token) = environment.get(Variable::AwsSessionToken) {
            builder = builder.with_token(token);
        }
        let build = |builder: AmazonS3Builder| builder.build().map_err(|error| StoreError::Configuration(error.to_string()));
        let bucket_once = build(builder.clone().with_retry(RetryConfig { max_retries: 0, ..retry.clone() }))?;
        let bucket = build(builder.with_retry(retry))?;
        let prefix = Path::parse(&location.prefix).map_err(|error| StoreError::Configuration(error.to_string()))?;
        Ok(Self { bucket, bucket_once, name: location.bucket.clone(), prefix })
    }

    fn path(&self, key: Key) -> Path {
        key.path().split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The error of a call that needs no object to exist, only the bucket.
    fn classify_of_bucket(&self, object: String, error: object_store::Error) -> StoreError {
        let unnamed = chain(&error).contains("NoSuchBucket");
        match classify(object, error) {
            error if !unnamed && !error.is_not_found() => error,
            _ => StoreError::Configuration(format!("there is no bucket `{}`; create it first", self.name)),
        }
    }

    async fn put_if_absent(&self, key: Key, bytes: Bytes) -> Result<(), StoreError> {
        let (path, conditional) = (self.path(key), PutOptions { mode: object_store::PutMode::Create, ..PutOptions::default() });
        // The first time without retries: 501 would be repeated like any other 5xx, for half a minute.
        match self.bucket_once.put_opts(&path, bytes.clone().into(), conditional.clone()).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_implemented(&error) => {
                tracing::warn!(object = %key, "the store has no conditional put; looking before putting instead");
                if self.size(key).await?.is_some() {
                    return Err(StoreError::AlreadyExists { object: key.path() });
                }
                self.put(key, bytes, PutMode::Overwrite).await
            }
            Err(error) => match self.classify_of_bucket(key.path(), error) {
                StoreError::Unavailable { .. } => {
                    let put = self.bucket.put_opts(&path, bytes.into(), conditional).await;
                    put.map(|_| ()).map_err(|error| self.classify_of_bucket(key.path(), error))
                }
                error => Err(error),
            },
        }
    }

    async fn put_in_parts(&self, key: Key, spill: Arc<Spill>) -> Result<(), StoreError> {
        let failed = |error| self.classify_of_bucket(key.path(), error);
        let mut upload = self.bucket.put_multipart(&self.path(key)).await.map_err(failed)?;
        let put = async {
            let mut start = 0;
            while start < spill.len() {
                let end = (start + PART_BYTES).min(spill.len());
                let read = Arc::clone(&spill);
                let part = tokio::task::spawn_blocking(move || super::read_spill(&read, start..end)).await;
                let part = part.map_err(|error| StoreError::Unavailable { object: key.path(), reason: error.to_string() })?;
                let part = part.map_err(|error| super::spill_failed(key, error))?;
                upload.put_part(part.into()).await.map_err(failed)?;
                start = end;
            }
            upload.complete().await.map(|_| ()).map_err(failed)
        };
        let result = put.await;
        if result.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(object = %key, error = chain(&error), "an upload in parts that failed could not be aborted");
        }
        result
    }

    async fn read_range(&self, key: Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let expected = range.end;
        let wanted = range.end.saturating_sub(range.start);
        match self.bucket.get_range(&self.path(key), range).await {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Err(error @ (object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. })) => {
                Err(classify(key.path(), error))
            }
            // Stores answer a range beyond the end by an error or by less; the size says which it was.
            other => match self.size(key).await? {
                Some(found) if found < expected => Err(StoreError::Truncated { object: key.path(), expected, found }),
                _ => match other {
                    Ok(short) => Err(StoreError::Truncated { object: key.path(), expected: wanted, found: short.len() as u64 }),
                    Err(error) => Err(classify(key.path(), error)),
                },
            },
        }
    }
}

/// The region in a name like `s3.eu-central-1.amazonaws.com`.
fn region_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://")?.1;
    let region = host.strip_prefix("s3.").or_else(|| host.strip_prefix("s3-"))?.strip_suffix(".amazonaws.com")?;
    let region = region.strip_prefix("dualstack.").unwrap_or(region);
    (!region.is_empty() && !region.contains('.')).then_some(region)
}

/// Texts of an error and its causes. `object_store` keeps the status of a failed request to itself, so its text is all there is.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

fn is_not_implemented(error: &object_store::Error) -> bool {
    use object_store::Error;
    match error {
        Error::NotImplemented { .. } | Error::NotSupported { .. } => true,
        Error::Generic { .. } => chain(error).contains("501 Not Implemented"),
        _ => false,
    }
}

fn classify(object: String, error: object_store::Error) -> StoreError {
    use object_store::Error;
    let reason = chain(&error);
    match error {
        Error::NotFound { .. } => StoreError::NotFound { object },
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StoreError::AlreadyExists { object },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied { object, reason },
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => StoreError::Configuration(reason),
        // What is left has been retried: server errors and broken connections, or client errors that no retry mends.
        _ if reason.contains("status code: 4") => StoreError::Io { object, source: std::io::Error::other(reason) },
        _ => StoreError::Unavailable { object, reason },
    }
}

impl Store for S3Store {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // Folders are only prefixes of names here, and a bucket is made by its owner.
        Box::pin(std::future::ready(Ok(())))
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match mode {
                PutMode::IfAbsent => self.put_if_absent(key, bytes).await,
                PutMode::Overwrite => {
                    let put = self.bucket.put(&self.path(key), bytes.into()).await;
                    put.map(|_| ()).map_err(|error| self.classify_of_bucket(key.path(), error))
                }
            }
        })
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if bytes.len() > PART_BYTES {
                return self.put_in_parts(key, bytes).await;
            }
            let bytes = super::read_spill(&bytes, 0..bytes.len()).map_err(|error| super::spill_failed(key, error))?;
            self.put(key, bytes, PutMode::Overwrite).await
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let read = async { self.bucket.get(&self.path(key)).await?.bytes().await };
            read.await.map_err(|error| classify(key.path(), error))
        })
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.read_range(key, range))
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(async move {
            let folder = self.prefix.clone().join(kind.folder());
            let named = self.bucket.list(Some(&folder)).try_filter_map(|object| {
                let id = object.location.filename().and_then(|name| name.parse().ok());
                std::future::ready(Ok(id.map(|id| Listed { id, bytes: object.size })))
            });
            named.try_collect().await.map_err(|error| self.classify_of_bucket(kind.folder().to_owned(), error))
        })
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async move {
            match self.bucket.head(&self.path(key)).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(classify(key.path(), error)),
            }
        })
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match self.bucket.delete(&self.path(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(classify(key.path(), error)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
