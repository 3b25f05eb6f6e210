//! A request for a volume.

use std::collections::BTreeMap;

use csi_proto::windlass::v1 as proto;

use super::{FieldError, handle, kubernetes, name, size};
use crate::types::{
    AccessMode, CapacityRange, DataChecksum, FsType, NewVolume, SnapshotHandle, VolumeMode, VolumeSize, mount_options,
};

/// Most bytes of the parameters, and of the mount flags: what CSI allows.
const MAX_MAP_BYTES: usize = 4096;
/// How a device node is spelled.
const BLOCK: &str = "block";

/// Each access mode with its name in CSI.
const ACCESS_MODES: [(AccessMode, &str); 5] = [
    (AccessMode::SingleNodeWriter, "SINGLE_NODE_WRITER"),
    (AccessMode::SingleNodeReaderOnly, "SINGLE_NODE_READER_ONLY"),
    (AccessMode::MultiNodeReaderOnly, "MULTI_NODE_READER_ONLY"),
    (AccessMode::SingleNodeSingleWriter, "SINGLE_NODE_SINGLE_WRITER"),
    (AccessMode::SingleNodeMultiWriter, "SINGLE_NODE_MULTI_WRITER"),
];

/// The request of a message. Its content comes from elsewhere, so it names no object of the pool as a source.
///
/// # Errors
/// [`FieldError`].
pub fn read(message: Option<proto::NewVolume>) -> Result<NewVolume, FieldError> {
    let message = message.ok_or_else(|| FieldError::new("volume", "is required"))?;
    let mode = read_mode("volume.mode", &message.mode)?;
    Ok(NewVolume {
        name: name("volume.name", &message.name)?,
        capacity: capacity(message.required_bytes, message.limit_bytes)?,
        minimum: size("volume.minimum_bytes", message.minimum_bytes)?,
        mode,
        access_modes: access_modes(&message.access_modes)?,
        mount_flags: mount_flags(message.mount_flags, mode)?,
        parameters: parameters(message.parameters)?,
        checksum: if message.checksum { DataChecksum::On } else { DataChecksum::Off },
        source: None,
        foreign_source: match message.source_snapshot_id.as_str() {
            "" => None,
            text => Some(handle::<SnapshotHandle>("volume.source_snapshot_id", text)?.to_string()),
        },
        kubernetes: kubernetes::read(message.kubernetes)?,
    })
}

/// The message of a request.
pub fn message(volume: NewVolume) -> proto::NewVolume {
    let access_mode = |mode: AccessMode| {
        let named = ACCESS_MODES.iter().find(|(known, _)| *known == mode);
        named.map_or_else(String::new, |(_, name)| (*name).to_owned())
    };
    proto::NewVolume {
        name: volume.name.into(),
        required_bytes: volume.capacity.required().unwrap_or_default(),
        limit_bytes: volume.capacity.limit().unwrap_or_default(),
        minimum_bytes: volume.minimum.bytes(),
        mode: mode_text(volume.mode),
        access_modes: volume.access_modes.into_iter().map(access_mode).collect(),
        mount_flags: volume.mount_flags,
        parameters: volume.parameters.into_iter().collect(),
        checksum: volume.checksum == DataChecksum::On,
        source_snapshot_id: volume.foreign_source.unwrap_or_default(),
        kubernetes: Some(kubernetes::message(volume.kubernetes)),
    }
}

pub(super) fn read_mode(field: &'static str, text: &str) -> Result<VolumeMode, FieldError> {
    match text {
        BLOCK => Ok(VolumeMode::Block),
        text => text
            .parse::<FsType>()
            .map(VolumeMode::Filesystem)
            .map_err(|_| FieldError::new(field, format!("must be {BLOCK} or a file system"))),
    }
}

pub(super) fn mode_text(mode: VolumeMode) -> String {
    match mode {
        VolumeMode::Block => BLOCK.to_owned(),
        VolumeMode::Filesystem(fs_type) => fs_type.to_string(),
    }
}

fn capacity(required: u64, limit: u64) -> Result<CapacityRange, FieldError> {
    let wrong = |reason: String| FieldError::new("volume.required_bytes", reason);
    if required > VolumeSize::MAX.bytes() {
        return Err(wrong(format!("must be at most {}", VolumeSize::MAX.bytes())));
    }
    let bound = |bytes: u64| (bytes != 0).then_some(bytes);
    CapacityRange::new(bound(required), bound(limit)).ok_or_else(|| wrong("must not exceed the limit".to_owned()))
}

/// Ascending, without repetition, as a request has them.
fn access_modes(texts: &[String]) -> Result<Vec<AccessMode>, FieldError> {
    let wrong = |reason: &str| FieldError::new("volume.access_modes", reason);
    let modes: Option<Vec<AccessMode>> = texts
        .iter()
        .map(|text| ACCESS_MODES.iter().find(|(_, name)| name == text).map(|(mode, _)| *mode))
        .take(ACCESS_MODES.len() + 1)
        .collect();
    match modes {
        Some(modes) if modes.is_sorted_by(|before, after| before < after) => Ok(modes),
        Some(_) => Err(wrong("must ascend without repetition")),
        None => Err(wrong("must be access modes of CSI that a node's volume has")),
    }
}

fn mount_flags(flags: Vec<String>, mode: VolumeMode) -> Result<Vec<String>, FieldError> {
    let wrong = |reason: String| FieldError::new("volume.mount_flags", reason);
    if flags.iter().map(|flag| flag.len() + 1).sum::<usize>() > MAX_MAP_BYTES {
        return Err(wrong(format!("must have at most {MAX_MAP_BYTES} bytes")));
    }
    if flags.iter().any(|flag| flag.is_empty() || flag.contains('\0')) {
        return Err(wrong("must not be empty or contain NUL".to_owned()));
    }
    let fs_type = match mode {
        VolumeMode::Block => None,
        VolumeMode::Filesystem(fs_type) => Some(fs_type),
    };
    mount_options::check(&flags, fs_type).map_err(|error| wrong(error.to_string()))?;
    Ok(flags)
}

fn parameters(map: std::collections::HashMap<String, String>) -> Result<BTreeMap<String, String>, FieldError> {
    if map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_MAP_BYTES {
        return Err(FieldError::new("volume.parameters", format!("must have at most {MAX_MAP_BYTES} bytes")));
    }
    Ok(map.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogicalBlockSize, ObjectName, PoolId, SnapshotId};

    fn volume() -> NewVolume {
        let source = SnapshotHandle { pool: PoolId::random(), snapshot: SnapshotId::random() };
        NewVolume {
            name: ObjectName::try_from("pvc-1".to_owned()).unwrap(),
            capacity: CapacityRange::new(Some(1 << 30), Some(2 << 30)).unwrap(),
            minimum: VolumeSize::new(16 << 20).unwrap(),
            mode: VolumeMode::Filesystem(FsType::Ext4),
            access_modes: ACCESS_MODES.map(|(mode, _)| mode).into(),
            mount_flags: vec!["noatime".to_owned()],
            parameters: BTreeMap::from([(LogicalBlockSize::PARAMETER.to_owned(), "512".to_owned())]),
            checksum: DataChecksum::On,
            source: None,
            foreign_source: Some(source.to_string()),
            kubernetes: Default::default(),
        }
    }

    #[test]
    fn a_request_reads_back() {
        let plain = NewVolume {
            capacity: CapacityRange::ANY,
            mode: VolumeMode::Block,
            access_modes: vec![],
            mount_flags: vec![],
            parameters: BTreeMap::new(),
            checksum: DataChecksum::Off,
            foreign_source: None,
            ..volume()
        };
        for request in [volume(), plain] {
            assert_eq!(read(Some(message(request.clone()))), Ok(request));
        }
    }

    #[test]
    fn what_no_volume_can_be_is_refused_by_its_field() {
        let good = || message(volume());
        let long = "a".repeat(MAX_MAP_BYTES + 1);
        for (field, wrong) in [
            ("volume.name", proto::NewVolume { name: "a\0b".to_owned(), ..good() }),
            ("volume.mode", proto::NewVolume { mode: "ntfs".to_owned(), ..good() }),
            ("volume.required_bytes", proto::NewVolume { required_bytes: u64::MAX, limit_bytes: 0, ..good() }),
            ("volume.required_bytes", proto::NewVolume { limit_bytes: 1, ..good() }),
            ("volume.minimum_bytes", proto::NewVolume { minimum_bytes: 1, ..good() }),
            ("volume.access_modes", proto::NewVolume { access_modes: vec!["ANY".to_owned()], ..good() }),
            ("volume.access_modes", proto::NewVolume { access_modes: vec!["SINGLE_NODE_WRITER".to_owned(); 9], ..good() }),
            ("volume.mount_flags", proto::NewVolume { mount_flags: vec![String::new()], ..good() }),
            ("volume.mount_flags", proto::NewVolume { mount_flags: vec![long.clone()], ..good() }),
            ("volume.parameters", proto::NewVolume { parameters: [(long, String::new())].into(), ..good() }),
            ("volume.source_snapshot_id", proto::NewVolume { source_snapshot_id: "/etc/passwd".to_owned(), ..good() }),
        ] {
            assert_eq!(read(Some(wrong)).unwrap_err().field, field);
        }
    }
}
