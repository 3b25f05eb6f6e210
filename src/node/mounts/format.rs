//! Whether a volume is formatted, mounted as it is, or left for somebody to look at (invariant 1). A pure decision.

use crate::mount::{Formatting, Probe};
use crate::pool::record::Volume;
use crate::types::{FormatState, FsType};

/// What is to be done before an unmounted volume is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preparation {
    /// Make a file system.
    Format(Formatting),
    /// A copy that was never mounted: give it an identity of its own.
    RenewIdentity,
    None,
}

/// Decides for a volume that is mounted nowhere. `wanted` is its file system.
///
/// # Errors
/// Why it must neither be formatted nor mounted. Any doubt is an error.
pub(super) fn decide(volume: &Volume, probe: &Probe, wanted: FsType) -> Result<Preparation, String> {
    // A copy that has content is `Copied`: the pool knows whether there was any to copy. So the state alone decides.
    match (volume.format, probe) {
        (FormatState::Never, Probe::Blank) => Ok(Preparation::Format(Formatting::Blank)),
        (FormatState::Never, Probe::FileSystem(_) | Probe::Other(_)) => {
            Err(format!("was never formatted by this driver, but holds {}; it is left as it is", describe(probe)))
        }
        // Nobody has mounted it since: what the interrupted attempt wrote is no content. Whether this can be that attempt's is
        // for the mounter to say, which knows what mkfs leaves.
        (FormatState::Formatting, _) => Ok(Preparation::Format(Formatting::Unfinished)),
        (FormatState::Copied, Probe::FileSystem(found)) if *found == wanted => Ok(Preparation::RenewIdentity),
        (FormatState::Content, Probe::FileSystem(found)) if *found == wanted => Ok(Preparation::None),
        (FormatState::Copied | FormatState::Content, Probe::Blank) => {
            Err(format!("holds no file system, and is not formatted because it has content; expected {wanted}"))
        }
        (FormatState::Copied | FormatState::Content, Probe::FileSystem(_) | Probe::Other(_)) => {
            Err(format!("holds {}, expected {wanted}; it is left as it is", describe(probe)))
        }
    }
}

fn describe(probe: &Probe) -> String {
    match probe {
        Probe::Blank => "nothing".to_owned(),
        Probe::FileSystem(found) => found.to_string(),
        Probe::Other(found) => found.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::{DataChecksum, LogicalBlockSize, Object, SnapshotId, Timestamp, VolumeId, VolumeMode, VolumeSize};

    fn volume(format: FormatState, source: Option<Object>) -> Volume {
        Volume {
            id: VolumeId::random(),
            name: "a".to_owned().try_into().unwrap(),
            size: VolumeSize::DEFAULT,
            created_size: VolumeSize::DEFAULT,
            logical_block_size: LogicalBlockSize::B4096,
            mode: VolumeMode::Filesystem(FsType::Xfs),
            access_modes: Vec::new(),
            mount_flags: Vec::new(),
            parameters: BTreeMap::new(),
            checksum: DataChecksum::Off,
            source,
            format,
            created: Timestamp::now(),
            history: Default::default(),
            foreign_source: None,
            kubernetes: Default::default(),
        }
    }

    #[test]
    fn only_a_blank_volume_without_content_or_our_own_remains_are_formatted() {
        use FormatState::{Content, Copied, Formatting as Begun, Never};
        let source = Some(Object::Snapshot(SnapshotId::random()));
        let probes =
            [Probe::Blank, Probe::FileSystem(FsType::Xfs), Probe::FileSystem(FsType::Ext4), Probe::Other("LVM".to_owned())];
        for state in [Never, Begun, Copied, Content] {
            for from in [None, source] {
                for probe in &probes {
                    let decision = decide(&volume(state, from), probe, FsType::Xfs);
                    // Where it came from does not matter: a copy of what had content is recorded as such.
                    let expected = match (state, probe) {
                        (Never, Probe::Blank) => Some(Preparation::Format(Formatting::Blank)),
                        (Begun, _) => Some(Preparation::Format(Formatting::Unfinished)),
                        (Content, Probe::FileSystem(FsType::Xfs)) => Some(Preparation::None),
                        (Copied, Probe::FileSystem(FsType::Xfs)) => Some(Preparation::RenewIdentity),
                        _ => None,
                    };
                    assert_eq!(decision.ok(), expected, "{state:?} {from:?} {probe:?}");
                }
            }
        }
    }
}
