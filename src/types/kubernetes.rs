//! What Kubernetes calls the objects that a volume or snapshot stands for.
//!
//! Handles are for machines; these names are what people look for when they must find a volume again. They are recorded with an object,
//! shown, and go into its exports. They are never compared: an object is the same whatever it is called, and a repeated request is
//! answered from the record.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name of an object or a namespace: 1 to 253 lower-case letters, digits, `-` and `.`, as Kubernetes has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KubernetesName(String);

/// A text that no object of Kubernetes is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a name of Kubernetes")]
pub struct KubernetesNameError;

impl KubernetesName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KubernetesName {
    type Error = KubernetesNameError;

    fn try_from(text: String) -> Result<Self, KubernetesNameError> {
        let outer = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        let bytes = text.as_bytes();
        if bytes.len() <= 253 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last()) {
            Ok(Self(text))
        } else {
            Err(KubernetesNameError)
        }
    }
}

impl From<KubernetesName> for String {
    fn from(name: KubernetesName) -> Self {
        name.0
    }
}

impl fmt::Display for KubernetesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an object in a namespace; shown as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: KubernetesName,
    /// The name in it.
    pub name: KubernetesName,
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The names of one volume or snapshot, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KubernetesNames {
    /// Its PersistentVolumeClaim; of a snapshot, that of its volume when it was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<NamespacedName>,
    /// Its PersistentVolume; of a snapshot, that of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<KubernetesName>,
    /// Its VolumeSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<NamespacedName>,
    /// Its VolumeSnapshotContent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_content: Option<KubernetesName>,
}

impl KubernetesNames {
    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The names of a snapshot: its own, and those of its volume at the cut.
    #[must_use]
    pub fn of_snapshot(&self, volume: &Self) -> Self {
        Self {
            claim: volume.claim.clone(),
            volume: volume.volume.clone(),
            snapshot: self.snapshot.clone(),
            snapshot_content: self.snapshot_content.clone(),
        }
    }

    /// As tags of an export: `pvc=namespace/name` and the like, each that is known.
    pub fn tags(&self) -> Vec<String> {
        let tag = |key: &str, name: Option<String>| name.map(|name| format!("{key}={name}"));
        [
            tag("pvc", self.claim.as_ref().map(ToString::to_string)),
            tag("pv", self.volume.as_ref().map(ToString::to_string)),
            tag("volumesnapshot", self.snapshot.as_ref().map(ToString::to_string)),
            tag("volumesnapshotcontent", self.snapshot_content.as_ref().map(ToString::to_string)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> KubernetesName {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn only_what_kubernetes_accepts_is_a_name() {
        assert_eq!(name("data-db.0").as_str(), "data-db.0");
        for bad in ["", "-a", "a/b", "A", "a,b", "a b", "a\n", &"a".repeat(254)] {
            assert!(KubernetesName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_snapshot_has_its_own_names_and_those_of_its_volume() {
        let in_shop = |text| Some(NamespacedName { namespace: name("shop"), name: name(text) });
        let volume = KubernetesNames { claim: in_shop("data"), volume: Some(name("pvc-1")), ..Default::default() };
        let asked = KubernetesNames { claim: in_shop("other"), snapshot: in_shop("nightly"), ..Default::default() };
        let names = asked.of_snapshot(&volume);
        assert_eq!(names.tags(), ["pvc=shop/data", "pv=pvc-1", "volumesnapshot=shop/nightly"]);
        let text = serde_json::to_string(&names).unwrap();
        assert_eq!(serde_json::from_str::<KubernetesNames>(&text).unwrap(), names);
        assert_eq!(serde_json::from_str::<KubernetesNames>("{}").unwrap(), KubernetesNames::default());
    }
}
