//! A container of Azure's blob storage as a store.
//!
//! Only what the environment holds is used: an account's key or a shared access signature, never the identity of the machine or the
//! pod.

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::bucket::{BucketStore, built, client_options, no_retry, required};
use super::error::StoreError;
use super::http::{Connector, Limits};
use super::patient::Patient;
use crate::repository::environment::{Environment, Variable};
use crate::repository::location::BucketLocation;

const DEFAULT_DOMAIN: &str = "core.windows.net";

/// The store at `location`, whose bucket is a container. Nothing is requested yet. `endpoint` is another server than Azure's, for tests.
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
    let account = required(environment, Variable::AzureAccountName)?;
    let address = match endpoint {
        Some(endpoint) => endpoint.to_owned(),
        None => {
            let domain = environment.get(Variable::AzureEndpointSuffix).unwrap_or(DEFAULT_DOMAIN);
            let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            if !account.chars().all(|c| c.is_ascii_alphanumeric()) || !domain.chars().all(label) {
                let names = (Variable::AzureAccountName.name(), Variable::AzureEndpointSuffix.name());
                return Err(StoreError::configuration(format!("{} or {} is malformed", names.0, names.1)));
            }
            format!("https://{account}.blob.{domain}")
        }
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(&location.bucket)
        .with_endpoint(address)
        .with_retry(no_retry())
        .with_client_options(client_options(endpoint.is_some()))
        .with_http_connector(Connector::new(environment, limits)?);
    builder = match environment.get(Variable::AzureAccountSas) {
        Some(sas) => builder.with_config(AzureConfigKey::SasKey, sas.trim_start_matches('?')).with_credential_type("sas_token"),
        None => builder.with_access_key(required(environment, Variable::AzureAccountKey)?).with_credential_type("access_key"),
    };
    built(builder.build(), location, patient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::store::retry::Patience;
    use crate::repository::store::{Kind, Store};
    use crate::types::error::chain;

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let location = BucketLocation { bucket: "container".into(), prefix: String::new() };
        let key = "AAAAAAAA";
        for (pairs, why) in [
            (vec![], "AZURE_ACCOUNT_NAME is not set"),
            (vec![("AZURE_ACCOUNT_NAME", "account")], "AZURE_ACCOUNT_KEY is not set"),
            (vec![("AZURE_ACCOUNT_NAME", "a@evil/x#"), ("AZURE_ACCOUNT_KEY", key)], "malformed"),
            (vec![("AZURE_ACCOUNT_NAME", "a"), ("AZURE_ENDPOINT_SUFFIX", "x/@y"), ("AZURE_ACCOUNT_KEY", key)], "malformed"),
        ] {
            let environment = Environment::from_pairs(pairs);
            let patient = Arc::new(Patient::new(Patience::default()));
            let error = connect(&location, &environment, Limits::default(), patient, None).unwrap_err();
            assert!(chain(&error).contains(why), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_container_that_does_not_exist_is_said_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/account", listener.local_addr().unwrap());
        let location = BucketLocation { bucket: "container".into(), prefix: String::new() };
        let environment = Environment::from_pairs([("AZURE_ACCOUNT_NAME", "account"), ("AZURE_ACCOUNT_KEY", "AAAAAAAA")]);
        let patient = Arc::new(Patient::new(Patience::default()));
        let store = connect(&location, &environment, Limits::default(), patient, Some(&endpoint)).unwrap();
        let answers = async {
            let (mut stream, body) = (listener.accept().await.unwrap().0, "<Error><Code>ContainerNotFound</Code></Error>");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap());
            }
            let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        };
        let (listed, ()) = tokio::join!(store.list(Kind::Data), answers);
        assert!(
            matches!(&listed, Err(StoreError::Configuration(text)) if text.to_string().contains("create it first")),
            "{listed:?}"
        );
    }
}
