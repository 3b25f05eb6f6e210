//! Fields of requests that the words of the wire alone do not check.

use csi_proto::windlass::v1 as proto;

use crate::blocks::BlocksError;
use crate::blocks::wire::secret::Secret;
use crate::blocks::wire::{self, FieldError};
use crate::csi::validate;
use crate::types::{NewVolume, PoolId, PoolName};

/// What a pool is asked for by: an id, a name, or nothing.
///
/// # Errors
/// [`BlocksError::Missing`] for any other text, as for a pool that is not there.
pub(super) fn pool(text: String) -> Result<String, BlocksError> {
    let is_id = text.parse::<PoolId>().is_ok() || PoolId::from_label(&text).is_some();
    if text.is_empty() || is_id || text.parse::<PoolName>().is_ok() {
        return Ok(text);
    }
    Err(BlocksError::Missing("what is asked for is neither the id nor the name of a pool".to_owned()))
}

/// A volume whose parameters are a class's, those of the sidecars left out.
///
/// # Errors
/// [`FieldError`].
pub(super) fn volume(message: Option<proto::NewVolume>) -> Result<NewVolume, FieldError> {
    let volume = wire::volume::read(message)?;
    let parameters = volume.parameters.clone().into_iter().collect();
    let wrong = |reason: String| FieldError::new("volume.parameters", reason);
    let checked = validate::parameters::recorded(&parameters, &volume.kubernetes).map_err(|error| wrong(error.to_string()))?;
    if checked.recorded != volume.parameters {
        return Err(wrong("must be none of the sidecars'".to_owned()));
    }
    Ok(volume)
}

/// The id of a repository, or any other text that may be asked for and is not found.
///
/// # Errors
/// [`FieldError`] for one that is too long.
pub(super) fn repository(text: &str) -> Result<(), FieldError> {
    validate::text("repository", text).map_err(|error| FieldError::new("repository", error.reason))
}

/// The id of a target; `None` of one that is not known to the caller.
///
/// # Errors
/// [`FieldError`] for what is no id.
pub(super) fn target_id(bytes: &[u8]) -> Result<Option<Secret>, FieldError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Secret::read("target_id", bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_asked_for_by_its_id_or_name_and_never_by_a_path() {
        let id = PoolId::random();
        for good in [String::new(), id.to_string(), id.label(), "default".to_owned()] {
            assert_eq!(pool(good.clone()), Ok(good));
        }
        for bad in ["/var/lib/windlass", "../pool", "Fast", "a\0b", &"a".repeat(1 << 20)] {
            assert!(matches!(pool(bad.to_owned()), Err(BlocksError::Missing(_))), "{bad:.20}");
        }
    }

    #[test]
    fn parameters_are_those_of_a_class() {
        let with = |key: &str, value: &str| {
            Some(proto::NewVolume {
                name: "pvc-1".to_owned(),
                minimum_bytes: 4096,
                mode: "block".to_owned(),
                parameters: [(key.to_owned(), value.to_owned())].into(),
                ..Default::default()
            })
        };
        assert!(volume(with("logicalBlockSize", "512")).is_ok());
        // A class that protects says what it needs of the claim, which comes beside it.
        let protected = |kubernetes| {
            volume(Some(proto::NewVolume {
                kubernetes,
                parameters: [("restore".to_owned(), "latestOrEmpty".to_owned())].into(),
                ..with("deltaAnchors", "1").unwrap_or_default()
            }))
        };
        let claim =
            proto::KubernetesNames { claim_namespace: "shop".to_owned(), claim_name: "data".to_owned(), ..Default::default() };
        assert!(protected(Some(claim)).is_ok());
        assert_eq!(protected(None).unwrap_err().field, "volume.parameters");
        for (key, value) in [("logicalBlockSize", "7"), ("unknown", "x"), ("csi.storage.k8s.io/pvc/name", "data")] {
            assert_eq!(volume(with(key, value)).unwrap_err().field, "volume.parameters", "{key}");
        }
    }

    #[test]
    fn an_id_of_a_target_is_whole_or_left_out() {
        assert_eq!(target_id(&[]), Ok(None));
        assert!(matches!(target_id(&[7; Secret::BYTES]), Ok(Some(_))));
        assert!(target_id(&[7; 5]).is_err());
        assert!(repository(&"a".repeat(129)).is_err() && repository("another").is_ok());
    }
}
