//! Does what is recorded satisfy a repeated request? Pure decisions.
//!
//! A repeated creation is answered from the record, and only if the record is what the request would have made. The size is
//! compared as it was at creation: a volume that was grown since still answers the request that made it.

use super::PoolError;
use super::record::{NewSnapshot, Snapshot, Volume};
use crate::types::NewVolume;

/// Checks a recorded volume against a request for its name.
///
/// # Errors
/// [`PoolError::NameTaken`] with the first difference.
pub fn check_volume(existing: &Volume, request: &NewVolume) -> Result<(), PoolError> {
    let mut asked_modes = request.access_modes.clone();
    asked_modes.sort_unstable();
    asked_modes.dedup();
    let difference = if existing.source != request.source || existing.foreign_source != request.foreign_source {
        "content source"
    } else if !request.capacity.contains(existing.created_size) {
        "capacity"
    } else if existing.mode != request.mode {
        "volume mode or file system"
    } else if existing.access_modes != asked_modes {
        "set of access modes"
    } else if existing.mount_flags != request.mount_flags {
        "list of mount flags"
    } else if existing.parameters != request.parameters {
        "set of parameters"
    } else if existing.checksum != request.checksum {
        "checksum setting"
    } else {
        return Ok(());
    };
    Err(PoolError::NameTaken { name: request.name.to_string(), difference })
}

/// Checks a recorded snapshot against a request for its name.
///
/// # Errors
/// [`PoolError::NameTaken`] with the first difference.
pub fn check_snapshot(existing: &Snapshot, request: &NewSnapshot) -> Result<(), PoolError> {
    let difference = if existing.source != request.source {
        "source volume"
    } else if existing.parameters != request.parameters {
        "set of parameters"
    } else {
        return Ok(());
    };
    Err(PoolError::NameTaken { name: request.name.to_string(), difference })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::{
        AccessMode, AnchorLimit, CapacityRange, DataChecksum, FormatState, FsType, LogicalBlockSize, Object, SnapshotId,
        Timestamp, VolumeId, VolumeMode, VolumeSize,
    };

    fn request() -> NewVolume {
        NewVolume {
            name: "pvc-1".to_owned().try_into().unwrap(),
            capacity: CapacityRange::new(Some(8 << 20), None).unwrap(),
            minimum: VolumeSize::new(4096).unwrap(),
            mode: VolumeMode::Filesystem(FsType::Ext4),
            access_modes: vec![AccessMode::SingleNodeWriter],
            mount_flags: vec!["noatime".to_owned()],
            parameters: BTreeMap::from([("pool".to_owned(), "fast".to_owned())]),
            checksum: DataChecksum::Off,
            source: None,
            foreign_source: None,
            kubernetes: Default::default(),
        }
    }

    fn recorded(request: &NewVolume) -> Volume {
        Volume {
            id: VolumeId::random(),
            name: request.name.clone(),
            size: VolumeSize::new(8 << 20).unwrap(),
            created_size: VolumeSize::new(8 << 20).unwrap(),
            logical_block_size: LogicalBlockSize::B4096,
            mode: request.mode,
            access_modes: request.access_modes.clone(),
            mount_flags: request.mount_flags.clone(),
            parameters: request.parameters.clone(),
            checksum: request.checksum,
            source: request.source,
            format: FormatState::Never,
            created: Timestamp::now(),
            history: Default::default(),
            foreign_source: None,
            kubernetes: Default::default(),
        }
    }

    fn difference(result: Result<(), PoolError>) -> Option<&'static str> {
        match result {
            Ok(()) => None,
            Err(PoolError::NameTaken { difference, .. }) => Some(difference),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_equal_request_is_satisfied_also_after_the_volume_has_grown() {
        let request = request();
        let mut volume = recorded(&request);
        assert_eq!(difference(check_volume(&volume, &request)), None);
        volume.size = VolumeSize::new(64 << 20).unwrap();
        let limited = NewVolume { capacity: CapacityRange::new(Some(8 << 20), Some(9 << 20)).unwrap(), ..request };
        assert_eq!(difference(check_volume(&volume, &limited)), None);
    }

    #[test]
    fn every_part_of_a_volume_request_is_compared() {
        let base = request();
        let volume = recorded(&base);
        let cases = [
            (NewVolume { capacity: CapacityRange::new(Some(9 << 20), None).unwrap(), ..base.clone() }, "capacity"),
            (NewVolume { capacity: CapacityRange::new(None, Some(4 << 20)).unwrap(), ..base.clone() }, "capacity"),
            (NewVolume { mode: VolumeMode::Block, ..base.clone() }, "volume mode or file system"),
            (NewVolume { mode: VolumeMode::Filesystem(FsType::Xfs), ..base.clone() }, "volume mode or file system"),
            (NewVolume { access_modes: vec![AccessMode::SingleNodeMultiWriter], ..base.clone() }, "set of access modes"),
            (NewVolume { mount_flags: Vec::new(), ..base.clone() }, "list of mount flags"),
            (NewVolume { parameters: BTreeMap::new(), ..base.clone() }, "set of parameters"),
            (NewVolume { checksum: DataChecksum::On, ..base.clone() }, "checksum setting"),
            (NewVolume { source: Some(Object::Snapshot(SnapshotId::random())), ..base }, "content source"),
        ];
        for (request, expected) in cases {
            assert_eq!(difference(check_volume(&volume, &request)), Some(expected));
        }
    }

    #[test]
    fn a_snapshot_name_belongs_to_one_source_and_one_set_of_parameters() {
        let source = VolumeId::random();
        let request = NewSnapshot {
            name: "snap".to_owned().try_into().unwrap(),
            source,
            parameters: BTreeMap::new(),
            kubernetes: Default::default(),
        };
        let snapshot = Snapshot {
            id: SnapshotId::random(),
            name: request.name.clone(),
            source,
            size: VolumeSize::DEFAULT,
            logical_block_size: LogicalBlockSize::B4096,
            mode: VolumeMode::Block,
            format: FormatState::Content,
            checksum: DataChecksum::Off,
            parameters: BTreeMap::new(),
            created: Timestamp::now(),
            serial: 0,
            anchor_limit: AnchorLimit::default(),
            used_by: BTreeSet::new(),
            kubernetes: Default::default(),
            copies: Default::default(),
        };
        assert_eq!(difference(check_snapshot(&snapshot, &request)), None);
        let other = NewSnapshot { source: VolumeId::random(), ..request.clone() };
        assert_eq!(difference(check_snapshot(&snapshot, &other)), Some("source volume"));
        let other = NewSnapshot { parameters: BTreeMap::from([("a".to_owned(), "b".to_owned())]), ..request };
        assert_eq!(difference(check_snapshot(&snapshot, &other)), Some("set of parameters"));
    }
}
