//! What Kubernetes calls an object.

use csi_proto::windlass::v1 as proto;

use super::FieldError;
use crate::types::{KubernetesName, KubernetesNames, NamespacedName};

const FIELD: &str = "kubernetes";

/// The names of a message.
///
/// # Errors
/// [`FieldError`] for a text that is no name, and for a namespace without a name.
pub fn read(message: Option<proto::KubernetesNames>) -> Result<KubernetesNames, FieldError> {
    let Some(message) = message else { return Ok(KubernetesNames::default()) };
    Ok(KubernetesNames {
        claim: namespaced(message.claim_namespace, message.claim_name)?,
        volume: single(message.volume)?,
        snapshot: namespaced(message.snapshot_namespace, message.snapshot_name)?,
        snapshot_content: single(message.snapshot_content)?,
    })
}

fn single(text: String) -> Result<Option<KubernetesName>, FieldError> {
    let name = |text: String| text.try_into().map_err(|_| FieldError::new(FIELD, "must have names of Kubernetes"));
    (!text.is_empty()).then(|| name(text)).transpose()
}

fn namespaced(namespace: String, name: String) -> Result<Option<NamespacedName>, FieldError> {
    match (single(namespace)?, single(name)?) {
        (Some(namespace), Some(name)) => Ok(Some(NamespacedName { namespace, name })),
        (None, None) => Ok(None),
        _ => Err(FieldError::new(FIELD, "must have a namespace with each name, and none without")),
    }
}

/// The message of names.
pub fn message(names: KubernetesNames) -> proto::KubernetesNames {
    let single = |name: Option<KubernetesName>| name.map(String::from).unwrap_or_default();
    let namespaced =
        |name: Option<NamespacedName>| name.map(|name| (name.namespace.into(), name.name.into())).unwrap_or_default();
    let (claim_namespace, claim_name) = namespaced(names.claim);
    let (snapshot_namespace, snapshot_name) = namespaced(names.snapshot);
    proto::KubernetesNames {
        claim_namespace,
        claim_name,
        volume: single(names.volume),
        snapshot_namespace,
        snapshot_name,
        snapshot_content: single(names.snapshot_content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_halves_of_names_are_refused() {
        let name = |text: &str| KubernetesName::try_from(text.to_owned()).unwrap();
        let in_shop = |text| Some(NamespacedName { namespace: name("shop"), name: name(text) });
        let names = KubernetesNames {
            claim: in_shop("data"),
            volume: Some(name("pvc-1")),
            snapshot: in_shop("nightly"),
            snapshot_content: Some(name("content-1")),
        };
        assert_eq!(read(Some(message(names.clone()))), Ok(names));
        assert_eq!(read(Some(message(KubernetesNames::default()))), Ok(KubernetesNames::default()));
        assert_eq!(read(None), Ok(KubernetesNames::default()));
        let half = proto::KubernetesNames { claim_name: "data".to_owned(), ..Default::default() };
        assert!(read(Some(half)).is_err());
        let path = proto::KubernetesNames { volume: "../etc".to_owned(), ..Default::default() };
        assert!(read(Some(path)).is_err());
    }
}
