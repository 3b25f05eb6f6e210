//! A bucket of Google Cloud Storage as a store.
//!
//! Only what the environment holds is used: a service account's key or a token, never the identity of the machine or the pod. An access
//! token is not renewed; a service account's are.

use std::sync::Arc;

use object_store::client::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};

use super::bucket::{BucketStore, built, client_options, no_retry};
use super::error::StoreError;
use super::http::{Connector, Limits};
use super::patient::Patient;
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::BucketLocation;

/// The store at `location`. Nothing is requested yet. `endpoint` is another server than Google's, for tests.
///
/// # Errors
/// [`StoreError::Configuration`] when credentials are missing or malformed.
pub fn connect(
    location: &BucketLocation,
    environment: &Environment,
    limits: Limits,
    patient: Arc<Patient>,
    endpoint: Option<&str>,
) -> Result<BucketStore, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&location.bucket)
        .with_retry(no_retry())
        .with_client_options(client_options(endpoint.is_some()))
        .with_http_connector(Connector::new(environment, limits)?);
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let token = environment.get(Variable::GoogleAccessToken);
    builder = match (token, environment.get(Variable::GoogleApplicationCredentials)) {
        (Some(token), _) => {
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: token.to_owned() })))
        }
        (None, Some(key)) if is_service_account(key) => builder.with_service_account_key(key),
        (None, found) => {
            let name = Variable::GoogleApplicationCredentials.name();
            return Err(StoreError::configuration(match found {
                None => format!("neither {name} nor {} is set", Variable::GoogleAccessToken.name()),
                Some(_) => format!(
                    "{name} holds no service account's key; it must name a readable file, or in a Secret hold the key's JSON itself"
                ),
            }));
        }
    };
    built(builder.build(), location, patient)
}

/// Other documents of Google's tools name files, commands or metadata services.
fn is_service_account(key: &str) -> bool {
    let document: Result<serde_json::Value, _> = serde_json::from_str(key);
    document.is_ok_and(|document| document["type"] == "service_account" && document.get("gcs_base_url").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::store::retry::Patience;
    use crate::types::error::chain;

    #[test]
    fn only_a_service_account_s_key_is_taken() {
        let location = BucketLocation { bucket: "bucket".into(), prefix: "a".into() };
        for (value, why) in [
            ("", "neither GOOGLE_APPLICATION_CREDENTIALS nor GOOGLE_ACCESS_TOKEN is set"),
            ("/var/run/secrets/key.json", "holds no service account's key"),
            (r#"{"type": "external_account", "credential_source": {"file": "/etc/shadow"}}"#, "holds no service account's key"),
            (r#"{"type": "service_account", "gcs_base_url": "http://169.254.169.254"}"#, "holds no service account's key"),
        ] {
            let environment = Environment::from_pairs([("GOOGLE_APPLICATION_CREDENTIALS", value)]);
            let patient = Arc::new(Patient::new(Patience::default()));
            let error = connect(&location, &environment, Limits::default(), patient, None).unwrap_err();
            assert!(chain(&error).contains(why), "{error:?}");
        }
    }
}
