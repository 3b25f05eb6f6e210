//! Names of pools.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::PoolId;

/// The name by which StorageClasses choose a pool. Many nodes' pools share one, and so may several of one node.
///
/// 1 to 63 lower-case letters, digits, `-` and `.`, that begin and end with a letter or digit, and that cannot be taken for the id of
/// a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(String);

/// A text that is no name of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must have 1 to 63 lower-case letters, digits, `-` or `.`, begin and end with a letter or digit, and not look like the id of a pool"
)]
pub struct PoolNameError;

impl PoolName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PoolName {
    /// `default`: of a pool that was given no other.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for PoolName {
    type Err = PoolNameError;

    fn from_str(text: &str) -> Result<Self, PoolNameError> {
        let outer = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        let bytes = text.as_bytes();
        let is_name = bytes.len() <= 63 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last());
        let is_id = PoolId::from_label(text).is_some() || text.parse::<PoolId>().is_ok();
        if is_name && !is_id { Ok(Self(text.to_owned())) } else { Err(PoolNameError) }
    }
}

impl TryFrom<String> for PoolName {
    type Error = PoolNameError;

    fn try_from(text: String) -> Result<Self, PoolNameError> {
        text.parse()
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_that_is_no_id() {
        for name in ["default", "fast", "nvme-2.raid", "a", &"a".repeat(63)] {
            assert_eq!(name.parse::<PoolName>().unwrap().as_str(), name);
        }
        let id = PoolId::from_bytes([7; 16]);
        let (label, text) = (id.label(), id.to_string());
        for bad in ["", "-a", "a-", "Fast", "a b", "/a", "ä", &"a".repeat(64), &label, &text] {
            assert_eq!(bad.parse::<PoolName>(), Err(PoolNameError), "{bad}");
        }
    }
}
