//! The object `config`: what makes a store a repository.

use serde::{Deserialize, Serialize};

use super::crypto::Sealer;
use super::damage::Damage;
use super::error::RepositoryError;
use super::id::Id;
use super::polynomial;
use super::random::{NoRandomness, random};
use super::store::Key;

/// The only format version read and written here: the first with compression.
pub const VERSION: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Config {
    version: u32,
    pub(super) id: Id,
    chunker_polynomial: String,
}

/// The part that is read first, since everything else may have changed in another version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Config {
    pub(super) fn random() -> Result<Self, NoRandomness> {
        Ok(Self {
            version: VERSION,
            id: Id::from_bytes(random()?),
            chunker_polynomial: format!("{:x}", polynomial::random_irreducible()?),
        })
    }

    /// Makes the bytes of the object.
    pub(super) fn seal(&self, sealer: &Sealer) -> Result<Vec<u8>, RepositoryError> {
        let json = serde_json::to_vec(self).map_err(|source| RepositoryError::Json { what: "configuration", source })?;
        Ok(sealer.seal(&json)?)
    }

    /// Reads the bytes of the object, which another key does not open.
    pub(super) fn open(bytes: &[u8], sealer: &Sealer) -> Result<Self, RepositoryError> {
        let damaged = |damage| RepositoryError::damaged(Key::Config, damage);
        let mut bytes = bytes.to_vec();
        let plain = sealer.open(&mut bytes).map_err(damaged)?;
        let syntax = |error: serde_json::Error| damaged(Damage::json(error));
        let Versioned { version } = serde_json::from_slice(plain).map_err(syntax)?;
        if version != VERSION {
            return Err(RepositoryError::UnsupportedVersion { found: version, supported: VERSION });
        }
        serde_json::from_slice(plain).map_err(syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::crypto::Secrets;

    #[test]
    fn a_config_reads_back_and_other_versions_are_named() {
        let sealer = Sealer::new(Secrets::random().unwrap());
        let config = Config::random().unwrap();
        assert_eq!(Config::open(&config.seal(&sealer).unwrap(), &sealer).unwrap(), config);
        for (text, hint) in
            [(&br#"{"version":1,"id":"x"}"#[..], "upgrade_repo_v2"), (br#"{"version":3,"new":[]}"#, "newer program")]
        {
            let error = Config::open(&sealer.seal(text).unwrap(), &sealer).unwrap_err();
            assert!(matches!(error, RepositoryError::UnsupportedVersion { supported: 2, .. }), "{error}");
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
}
