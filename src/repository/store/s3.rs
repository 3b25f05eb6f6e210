//! A bucket of any server that speaks S3's protocol as a store.
//!
//! Every put and every part carries the SHA-256 of its bytes as a checksum that the store verifies; buckets with a default retention
//! take no put without one. The digest of an object is its name ([`digest`]), so that costs nothing.
//!
//! Without `AWS_REGION` and without a region in the host's name, the bucket is asked where it lies, once and before the first request.
//! A bucket is part of the path, but for hosts that want it in front of their own name.
//!
//! The keys in the environment sign requests. Without keys the [identity](crate::repository::identity) that the environment was given does,
//! with credentials that are [renewed]. Without either, no request is made.
//!
//! [renewed]: renewal

pub mod digest;
pub mod renewal;

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, Checksum};

use super::bucket::{Bucket, BucketStore, client_options, no_retry, required};
use super::error::StoreError;
use super::http::{Connector, Limits};
use super::patient::Patient;
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::S3Location;
use renewal::{Renewed, Renewing};

const DEFAULT_REGION: &str = "us-east-1";

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
    connect_by(Connector::new(environment, limits)?, location, environment, patient)
}

/// The same, over the connections of `connector`.
pub fn connect_by(
    connector: Connector,
    location: &S3Location,
    environment: &Environment,
    patient: Arc<Patient>,
) -> Result<BucketStore, StoreError> {
    let region = value(environment, Variable::AwsRegion)?
        .or(value(environment, Variable::AwsDefaultRegion)?)
        .or_else(|| region_of(&location.endpoint));
    let builder = signed(builder(location, environment)?, environment, &connector)?;
    let (name, prefix) = (&location.bucket, &location.prefix);
    let class = environment.get(Variable::S3StorageClass).map(str::to_owned);
    if let Some(region) = region {
        return Ok(BucketStore::new(in_region(builder, region)?, name, prefix, patient)?.with_storage_class(class));
    }
    // What is wrong with the configuration is said now, not at the first request.
    in_region(builder.clone(), DEFAULT_REGION)?;
    let address = format!("{}/{name}", location.endpoint);
    let open = move || {
        let (connector, builder, address) = (connector.clone(), builder.clone(), address.clone());
        let opened = async move {
            let region = connector.region_of(address, "the bucket".to_owned()).await?;
            in_region(builder, region.as_deref().unwrap_or(DEFAULT_REGION))
        };
        Box::pin(opened) as futures::future::BoxFuture<'static, _>
    };
    Ok(BucketStore::opened_by(Box::new(open), name, prefix, patient)?.with_storage_class(class))
}

fn in_region(builder: AmazonS3Builder, region: &str) -> Result<Arc<dyn Bucket>, StoreError> {
    let bucket = builder.with_region(region).build().map_err(|error| StoreError::configuration(error.to_string()))?;
    Ok(Arc::new(bucket))
}

fn builder(location: &S3Location, environment: &Environment) -> Result<AmazonS3Builder, StoreError> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&location.bucket)
        // A bulk delete needs a permission and a dialect that not every store has.
        .with_disable_bulk_delete(true)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_crypto_provider(Arc::new(digest::Digests))
        .with_retry(no_retry())
        .with_client_options(client_options(location.endpoint.starts_with("http://")));
    let in_host = match environment.get(Variable::S3BucketLookup) {
        None | Some("auto") => addresses_by_host(location),
        Some("dns") => true,
        Some("path") => false,
        Some(other) => {
            let name = Variable::S3BucketLookup.name();
            return Err(StoreError::configuration(format!("{name} is `{other}`; it must be auto, dns or path")));
        }
    };
    // Amazon's global name answers only for one region; without an endpoint the right regional one is derived.
    if location.endpoint != "https://s3.amazonaws.com" {
        let endpoint = match location.endpoint.split_once("://") {
            Some((scheme, host)) if in_host => format!("{scheme}://{}.{host}", location.bucket),
            _ => location.endpoint.clone(),
        };
        builder = builder.with_endpoint(endpoint);
    }
    builder = builder.with_virtual_hosted_style_request(in_host);
    if let Some(key) = environment.get(Variable::AwsSseKmsKeyId) {
        builder = builder.with_sse_kms_encryption(key);
    }
    Ok(builder)
}

/// What signs requests, and what sends them.
fn signed(builder: AmazonS3Builder, environment: &Environment, connector: &Connector) -> Result<AmazonS3Builder, StoreError> {
    if environment.relies_on_identity()
        && let Some(identity) = environment.identity().map_err(|error| StoreError::configuration(error.clone()))?
    {
        let credentials = Arc::new(Renewing::new(identity)?);
        let connector = Renewed::new(connector.clone(), Arc::clone(&credentials));
        return Ok(builder.with_credentials(credentials).with_http_connector(connector));
    }
    let key = |variable| value(environment, variable)?.map_or_else(|| required(environment, variable), Ok);
    let mut builder = builder
        .with_access_key_id(key(Variable::AwsAccessKeyId)?)
        .with_secret_access_key(key(Variable::AwsSecretAccessKey)?)
        .with_http_connector(connector.clone());
    if let Some(token) = value(environment, Variable::AwsSessionToken)? {
        builder = builder.with_token(token);
    }
    Ok(builder)
}

/// The value of a variable that becomes a part of headers. `object_store` panics at what cannot be one, such as the end of a line that a
/// Secret was given by mistake.
fn value(environment: &Environment, variable: Variable) -> Result<Option<&str>, StoreError> {
    // A secret is never in a header.
    let fits = |byte: u8| match variable {
        Variable::AwsSecretAccessKey => !byte.is_ascii_control(),
        _ => byte.is_ascii_graphic(),
    };
    match environment.get(variable) {
        Some(value) if !value.bytes().all(fits) => Err(StoreError::configuration(format!(
            "{} holds a space, the end of a line, or another character that it cannot have",
            variable.name()
        ))),
        value => Ok(value),
    }
}

/// Whether the bucket stands in front of the host's name: on hosts that ask for it, as minio-go and so restic have it, where its
/// name can be part of one. A certificate covers one label only.
fn addresses_by_host(location: &S3Location) -> bool {
    let Some((scheme, host)) = location.endpoint.split_once("://") else { return false };
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let asks = [".amazonaws.com", ".amazonaws.com.cn", ".aliyuncs.com"].iter().any(|domain| host.ends_with(domain));
    asks && location.bucket.chars().all(|c| label(c) || (c == '.' && scheme == "http"))
}

/// The region in a name like `s3.eu-central-1.amazonaws.com`.
fn region_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://")?.1;
    let host = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let region =
        ["s3.dualstack.", "s3-fips.dualstack.", "s3-fips.", "s3.", "s3-"].iter().find_map(|name| host.strip_prefix(name))?;
    (!region.is_empty() && !region.contains('.')).then_some(region)
}

#[cfg(test)]
mod tests;
