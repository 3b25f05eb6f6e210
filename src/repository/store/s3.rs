//! S3's protocol, whoever speaks it.
//!
//! Every put and every part carries the SHA-256 of its bytes as a checksum that the store verifies; buckets with a default retention
//! take none without. An object's is its name ([`digest`]), so that costs nothing.
//!
//! Only static credentials are used: never those of the machine, the pod or a file.

pub mod digest;

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::{ClientOptions, RetryConfig};

use super::StoreError;
use super::bucket::BucketStore;
use super::http::{Connector, Limits};
use super::patient::Patient;
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::S3Location;

const DEFAULT_REGION: &str = "us-east-1";

/// Repeating is not left to `object_store`: it knows neither what a lost answer means nor who else waits.
pub fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// The store at `location`. Nothing is requested yet.
///
/// # Errors
/// [`StoreError::Configuration`] when credentials are missing or the location is malformed.
pub fn connect(
    location: &S3Location,
    environment: &Environment,
    limits: Limits,
    patient: Arc<Patient>,
) -> Result<BucketStore, StoreError> {
    let required = |variable: Variable| {
        environment.get(variable).ok_or_else(|| StoreError::Configuration(format!("{} is not set", variable.name())))
    };
    let plain_http = location.endpoint.starts_with("http://");
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
        .with_checksum_algorithm(Checksum::SHA256)
        .with_crypto_provider(Arc::new(digest::Digests))
        .with_retry(no_retry())
        .with_client_options(ClientOptions::new().with_allow_http(plain_http))
        .with_http_connector(Connector::new(limits)?);
    // Amazon's global name answers only for one region; without an endpoint the right regional one is derived.
    if location.endpoint != "https://s3.amazonaws.com" {
        builder = builder.with_endpoint(&location.endpoint);
    }
    if let Some(token) = environment.get(Variable::AwsSessionToken) {
        builder = builder.with_token(token);
    }
    let bucket = builder.build().map_err(|error| StoreError::Configuration(error.to_string()))?;
    BucketStore::new(Arc::new(bucket), &location.bucket, &location.prefix, patient)
}

/// The region in a name like `s3.eu-central-1.amazonaws.com`.
fn region_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://")?.1;
    let region = host.strip_prefix("s3.").or_else(|| host.strip_prefix("s3-"))?.strip_suffix(".amazonaws.com")?;
    let region = region.strip_prefix("dualstack.").unwrap_or(region);
    (!region.is_empty() && !region.contains('.')).then_some(region)
}

#[cfg(test)]
mod tests;
