//! The Secret that a class names, read when it is needed.

use std::collections::HashMap;

use crate::agent::secret_source::{SecretData, SecretSourceError};
use crate::agent::transfers::context::Context;
use crate::types::NamespacedName;

/// Why the Secret that a class names opens nothing, in texts that do not change from one attempt to the next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::agent) enum NamedSecretError {
    /// There is nobody to ask.
    #[error("the agent reads no Secrets: it must run in Kubernetes (--kubernetes)")]
    NoSource,
    /// There is none.
    #[error("there is no Secret {0}, which the class names (repositorySecret)")]
    NotFound(NamespacedName),
    /// It is not for this agent.
    #[error(
        "the agent may not read the Secret {0}, which the class names: name it in the values of the chart (protectedSecrets)"
    )]
    Forbidden(NamespacedName),
    /// It may pass.
    #[error("the Secret {0} cannot be read now: the API server does not give it")]
    Unreachable(NamespacedName),
}

/// Reads a Secret by its name.
///
/// # Errors
/// [`NamedSecretError`].
pub(in crate::agent) async fn read_named(
    context: &Context,
    secret: &NamespacedName,
) -> Result<HashMap<String, String>, NamedSecretError> {
    let source = context.secrets.as_ref().ok_or(NamedSecretError::NoSource)?;
    source.read(secret).await.map(texts).map_err(|error| match error {
        SecretSourceError::NotFound(_) => NamedSecretError::NotFound(secret.clone()),
        SecretSourceError::Forbidden(_) => NamedSecretError::Forbidden(secret.clone()),
        SecretSourceError::Unreachable { reason, .. } => {
            tracing::warn!(%secret, reason, "a Secret cannot be read now");
            NamedSecretError::Unreachable(secret.clone())
        }
    })
}

/// The keys as a sidecar would bring them: what is no text is none of those that are known.
fn texts(data: SecretData) -> HashMap<String, String> {
    let values = data.into_values().into_iter();
    values.filter_map(|(key, value)| Some((key, String::from_utf8(value.to_vec()).ok()?))).collect()
}
