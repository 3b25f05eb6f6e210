//! Secrets by their names, for what happens when no sidecar calls and brings them.
//!
//! The agent owns the trait; who speaks to an API server implements it. What is read is not kept here: whoever reads a Secret holds it as
//! long as it is needed and no longer.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::types::NamespacedName;

/// The values of a Secret by their keys. They are wiped when this is dropped; `Debug` shows the keys alone.
#[derive(Default)]
pub struct SecretData(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl SecretData {
    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|value| value.as_slice())
    }

    /// All keys with their values.
    pub fn into_values(self) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        self.0
    }
}

impl FromIterator<(String, Zeroizing<Vec<u8>>)> for SecretData {
    fn from_iter<I: IntoIterator<Item = (String, Zeroizing<Vec<u8>>)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a Secret was not read. No text repeats a value of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretSourceError {
    /// There is none of this name.
    #[error("there is no Secret {0}")]
    NotFound(NamespacedName),
    /// The agent's account has no right to it.
    #[error("the agent's account may not read the Secret {0}")]
    Forbidden(NamespacedName),
    /// It cannot be told now; asked again, it may.
    #[error("the Secret {secret} cannot be read now: {reason}")]
    Unreachable {
        /// Which.
        secret: NamespacedName,
        /// Why, for people.
        reason: String,
    },
}

/// Whoever can read a Secret.
#[async_trait::async_trait]
pub trait SecretSource: Send + Sync {
    /// Reads a Secret, within a bounded time.
    ///
    /// # Errors
    /// [`SecretSourceError`]; only [`SecretSourceError::Unreachable`] may pass by itself.
    async fn read(&self, secret: &NamespacedName) -> Result<SecretData, SecretSourceError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_there_to_be_used_and_not_shown() {
        let data: SecretData = [("RESTIC_PASSWORD".to_owned(), Zeroizing::new(b"canary".to_vec()))].into_iter().collect();
        assert_eq!(data.get("RESTIC_PASSWORD"), Some(&b"canary"[..]));
        assert_eq!(data.keys().collect::<Vec<_>>(), ["RESTIC_PASSWORD"]);
        assert_eq!(format!("{data:?}"), "{\"RESTIC_PASSWORD\"}");
    }
}
