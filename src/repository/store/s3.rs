//! S3's protocol, whoever speaks it.
//!
//! Every put and every part carries the SHA-256 of its bytes as a checksum that the store verifies; buckets with a default retention
//! take none without. An object's is its name ([`digest`]), so that costs nothing.
//!
//! Without `AWS_REGION` and without a region in the host's name, the bucket is asked where it lies, once and before the first request.
//! A bucket is part of the path, but for hosts that want it in front of their own name.
//!
//! Only static credentials are used: never those of the machine, the pod or a file.

pub mod digest;

use std::sync::Arc;

use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, Checksum};

use super::StoreError;
use super::bucket::{Bucket, BucketStore, no_retry};
use super::http::{Connector, Limits};
use super::patient::Patient;
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::S3Location;

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
    let connector = Connector::new(environment, limits)?;
    let region = environment
        .get(Variable::AwsRegion)
        .or_else(|| environment.get(Variable::AwsDefaultRegion))
        .or_else(|| region_of(&location.endpoint));
    let builder = builder(location, environment)?.with_http_connector(connector.clone());
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
    let bucket = builder.with_region(region).build().map_err(|error| StoreError::Configuration(error.to_string()))?;
    Ok(Arc::new(bucket))
}

fn builder(location: &S3Location, environment: &Environment) -> Result<AmazonS3Builder, StoreError> {
    let required = |variable: Variable| {
        environment.get(variable).ok_or_else(|| StoreError::Configuration(format!("{} is not set", variable.name())))
    };
    let mut builder = AmazonS3Builder::new()
        .with_access_key_id(required(Variable::AwsAccessKeyId)?)
        .with_secret_access_key(required(Variable::AwsSecretAccessKey)?)
        .with_bucket_name(&location.bucket)
        // A bulk delete needs a permission and a dialect that not every store has.
        .with_disable_bulk_delete(true)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_crypto_provider(Arc::new(digest::Digests))
        .with_retry(no_retry())
        .with_client_options(ClientOptions::new().with_allow_http(location.endpoint.starts_with("http://")));
    let in_host = match environment.get(Variable::S3BucketLookup) {
        None | Some("auto") => addresses_by_host(location),
        Some("dns") => true,
        Some("path") => false,
        Some(other) => {
            let name = Variable::S3BucketLookup.name();
            return Err(StoreError::Configuration(format!("{name} is `{other}`; it must be auto, dns or path")));
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
    if let Some(token) = environment.get(Variable::AwsSessionToken) {
        builder = builder.with_token(token);
    }
    if let Some(key) = environment.get(Variable::AwsSseKmsKeyId) {
        builder = builder.with_sse_kms_encryption(key);
    }
    Ok(builder)
}

/// Whether the bucket stands in front of the host's name: on hosts that ask for it, as minio-go and so restic have it, where its name can be
/// part of one. A certificate covers one label only.
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
