//! The words of an event.

use std::fmt;

use crate::types::{KubernetesName, KubernetesNames, NamespacedName};

/// The object of Kubernetes that an event concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventObject {
    /// A PersistentVolumeClaim.
    Claim(NamespacedName),
    /// A VolumeSnapshot.
    Snapshot(NamespacedName),
    /// A VolumeSnapshotContent, which is in no namespace.
    SnapshotContent(KubernetesName),
}

impl EventObject {
    /// Those that are concerned by what happens to the object of these names: the claim, then snapshot and content.
    pub fn all_of(names: &KubernetesNames) -> Vec<Self> {
        let claim = names.claim.clone().map(Self::Claim);
        let snapshot = names.snapshot.clone().map(Self::Snapshot);
        let content = names.snapshot_content.clone().map(Self::SnapshotContent);
        [claim, snapshot, content].into_iter().flatten().collect()
    }

    /// Its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Claim(_) => "PersistentVolumeClaim",
            Self::Snapshot(_) => "VolumeSnapshot",
            Self::SnapshotContent(_) => "VolumeSnapshotContent",
        }
    }

    /// Its namespace, if it is in one.
    pub const fn namespace(&self) -> Option<&KubernetesName> {
        match self {
            Self::Claim(name) | Self::Snapshot(name) => Some(&name.namespace),
            Self::SnapshotContent(_) => None,
        }
    }

    /// Its name.
    pub const fn name(&self) -> &KubernetesName {
        match self {
            Self::Claim(name) | Self::Snapshot(name) => &name.name,
            Self::SnapshotContent(name) => name,
        }
    }
}

impl fmt::Display for EventObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(name) | Self::Snapshot(name) => write!(f, "{} {name}", self.kind()),
            Self::SnapshotContent(name) => write!(f, "{} {name}", self.kind()),
        }
    }
}

/// Whether somebody should look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// It goes as it should.
    Normal,
    /// It does not.
    Warning,
}

/// Why there is an event, in one word. Part of the interface: people filter and alert by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventReason {
    ExportStarted,
    ExportProgress,
    ExportWaiting,
    ExportFinished,
    ExportFailed,
    RestoreStarted,
    RestoreProgress,
    RestoreWaiting,
    RestoreFinished,
    RestoreFailed,
    ProtectionFailed,
}

impl EventReason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::ExportStarted,
        Self::ExportProgress,
        Self::ExportWaiting,
        Self::ExportFinished,
        Self::ExportFailed,
        Self::RestoreStarted,
        Self::RestoreProgress,
        Self::RestoreWaiting,
        Self::RestoreFinished,
        Self::RestoreFailed,
        Self::ProtectionFailed,
    ];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExportStarted => "ExportStarted",
            Self::ExportProgress => "ExportProgress",
            Self::ExportWaiting => "ExportWaiting",
            Self::ExportFinished => "ExportFinished",
            Self::ExportFailed => "ExportFailed",
            Self::RestoreStarted => "RestoreStarted",
            Self::RestoreProgress => "RestoreProgress",
            Self::RestoreWaiting => "RestoreWaiting",
            Self::RestoreFinished => "RestoreFinished",
            Self::RestoreFailed => "RestoreFailed",
            Self::ProtectionFailed => "ProtectionFailed",
        }
    }

    /// What was being done.
    pub const fn action(self) -> &'static str {
        match self {
            Self::ExportStarted | Self::ExportProgress | Self::ExportWaiting | Self::ExportFinished | Self::ExportFailed => {
                "Export"
            }
            Self::RestoreStarted | Self::RestoreProgress | Self::RestoreWaiting | Self::RestoreFinished | Self::RestoreFailed => {
                "Restore"
            }
            Self::ProtectionFailed => "Protection",
        }
    }

    /// Whether somebody should look at it.
    pub const fn importance(self) -> Importance {
        match self {
            Self::ExportWaiting | Self::ExportFailed | Self::RestoreWaiting | Self::RestoreFailed | Self::ProtectionFailed => {
                Importance::Warning
            }
            Self::ExportStarted
            | Self::ExportProgress
            | Self::ExportFinished
            | Self::RestoreStarted
            | Self::RestoreProgress
            | Self::RestoreFinished => Importance::Normal,
        }
    }
}

/// What makes two events one, of which the later only counts. Object and reason are the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repetition {
    /// The same text again.
    OfText,
    /// Another text of the same series, in place of the earlier one.
    OfSeries(String),
}

/// Something that people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it concerns.
    pub object: EventObject,
    /// Why.
    pub reason: EventReason,
    /// For people, in a kilobyte at most: what is longer is cut. It holds no secret.
    pub text: String,
    /// With which other one it is told as one.
    pub repetition: Repetition,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_concerns_its_claim_itself_and_its_content() {
        let name = |text: &str| KubernetesName::try_from(text.to_owned()).unwrap();
        let in_shop = |text| Some(NamespacedName { namespace: name("shop"), name: name(text) });
        let names = KubernetesNames {
            claim: in_shop("data"),
            volume: Some(name("pvc-1")),
            snapshot: in_shop("nightly"),
            snapshot_content: Some(name("snapcontent-1")),
        };
        let shown: Vec<String> = EventObject::all_of(&names).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["PersistentVolumeClaim shop/data", "VolumeSnapshot shop/nightly", "VolumeSnapshotContent snapcontent-1"]
        );
        assert!(EventObject::all_of(&KubernetesNames::default()).is_empty());
    }

    #[test]
    fn reasons_are_different_words_as_kubernetes_writes_them() {
        let names: std::collections::BTreeSet<_> = EventReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), EventReason::ALL.len());
        for reason in EventReason::ALL {
            let name = reason.name();
            assert!(name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(|c| c.is_ascii_alphanumeric()));
            assert!(name.starts_with(reason.action()), "{name}");
        }
    }
}
