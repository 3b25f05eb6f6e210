//! What a restore makes, decided before anything is made.

use std::collections::BTreeMap;

use csi_proto::windlass::v1 as windlass;
use tonic::Status;

use crate::csi::validate::size;
use crate::transfer::metadata::{Metadata, Mode};
use crate::types::{
    AccessMode, CapacityRange, DataChecksum, FsType, KubernetesNames, LogicalBlockSize, NewVolume, ObjectName, SnapshotHandle,
    VolumeMode, VolumeSize,
};

/// The volume to make: as large as its image or as was asked for, and in the mode that was asked for or exported.
///
/// # Errors
/// INVALID_ARGUMENT for what contradicts itself or the image; OUT_OF_RANGE for a size that cannot be.
pub(super) fn plan(
    request: &windlass::StartRestoreRequest,
    name: ObjectName,
    image_bytes: u64,
    metadata: Option<&Metadata>,
) -> Result<NewVolume, Status> {
    let mode = mode(request, metadata)?;
    let asked =
        u64::try_from(request.capacity_bytes).map_err(|_| Status::invalid_argument("capacity_bytes: must not be negative"))?;
    if asked != 0 && asked < image_bytes {
        return Err(Status::out_of_range(format!("capacity_bytes: the image has {image_bytes} bytes, more than {asked}")));
    }
    let volume =
        VolumeSize::at_least(asked.max(image_bytes)).map_err(|error| Status::out_of_range(format!("capacity_bytes: {error}")))?;
    Ok(NewVolume {
        name,
        capacity: CapacityRange::exactly(volume),
        minimum: size::minimum(mode).min(volume),
        mode,
        access_modes: vec![
            AccessMode::SingleNodeWriter,
            AccessMode::SingleNodeReaderOnly,
            AccessMode::SingleNodeSingleWriter,
            AccessMode::SingleNodeMultiWriter,
        ],
        mount_flags: Vec::new(),
        // Recorded with the volume, as a class's would be.
        parameters: match request.logical_block_bytes {
            0 => BTreeMap::new(),
            bytes => BTreeMap::from([(LogicalBlockSize::PARAMETER.to_owned(), bytes.to_string())]),
        },
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: metadata.and_then(|metadata| metadata.snapshot_handle.clone()).filter(|handle| is_handle(handle)),
        kubernetes: KubernetesNames::default(),
    })
}

/// Whether a text from a repository is the handle of a snapshot: whatever else it is would be no content source.
fn is_handle(text: &str) -> bool {
    text.parse::<SnapshotHandle>().is_ok()
}

/// The logical block size that is asked for, or the pool's own.
///
/// # Errors
/// INVALID_ARGUMENT for any other than the two there are.
pub(super) fn block_size(request: &windlass::StartRestoreRequest, own: LogicalBlockSize) -> Result<LogicalBlockSize, Status> {
    match request.logical_block_bytes {
        0 => Ok(own),
        bytes => LogicalBlockSize::from_bytes(bytes)
            .ok_or_else(|| Status::invalid_argument("logical_block_bytes: must be 512 or 4096")),
    }
}

/// What was written through a device of smaller blocks may not be usable through one of larger blocks: a partition table counts
/// in them. Our own file systems have sectors of 4 KiB and fit every pool.
///
/// # Errors
/// FAILED_PRECONDITION.
pub(super) fn check_block_size(metadata: Option<&Metadata>, pool: LogicalBlockSize) -> Result<(), Status> {
    let Some(metadata) = metadata else { return Ok(()) };
    match metadata.logical_block_bytes {
        Some(exported) if exported < pool.bytes() && metadata.mode != Some(Mode::Filesystem) => {
            Err(Status::failed_precondition(format!(
                "logical_block_bytes: the volume's blocks of {} bytes would be larger than the exported volume's of {exported}",
                pool.bytes()
            )))
        }
        _ => Ok(()),
    }
}

fn mode(request: &windlass::StartRestoreRequest, metadata: Option<&Metadata>) -> Result<VolumeMode, Status> {
    let exported = metadata.and_then(|metadata| metadata.filesystem.as_deref()).and_then(|name| name.parse::<FsType>().ok());
    match (request.block, request.fs_type.as_str()) {
        (true, "") => Ok(VolumeMode::Block),
        (true, _) => Err(Status::invalid_argument("fs_type: must be empty for a raw block device")),
        (false, "") => match (exported, metadata.and_then(|metadata| metadata.mode)) {
            (Some(fs_type), _) => Ok(VolumeMode::Filesystem(fs_type)),
            (None, Some(Mode::Block)) => Ok(VolumeMode::Block),
            (None, _) => Err(Status::invalid_argument(
                "fs_type: is required, for the snapshot does not say what the image holds; or set block",
            )),
        },
        (false, asked) => {
            let asked: FsType = asked.parse().map_err(|error| Status::invalid_argument(format!("fs_type: {error}")))?;
            match exported {
                Some(exported) if exported != asked => {
                    Err(Status::invalid_argument(format!("fs_type: the image holds {exported}, not {asked}")))
                }
                _ => Ok(VolumeMode::Filesystem(asked)),
            }
        }
    }
}

/// The file system that the request alone says is in the image. What was exported as a file system is restored whatever became of
/// it: there may be something to repair.
pub(super) fn claimed(mode: VolumeMode, metadata: Option<&Metadata>) -> Option<FsType> {
    match mode {
        VolumeMode::Filesystem(fs_type) if metadata.and_then(|metadata| metadata.filesystem.as_deref()).is_none() => {
            Some(fs_type)
        }
        VolumeMode::Filesystem(_) | VolumeMode::Block => None,
    }
}

/// The name of a volume with holes: that of the whole one, cut if need be, and what it is.
pub(super) fn damaged_name(name: &ObjectName, number: u32) -> ObjectName {
    let suffix = if number == 1 { "-damaged".to_owned() } else { format!("-damaged-{number}") };
    let mut stem = name.as_str().to_owned();
    while stem.len() + suffix.len() > ObjectName::MAX_BYTES {
        stem.pop();
    }
    // What is cut off a name and what is put behind it leave it one.
    ObjectName::try_from(stem + &suffix).unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn request() -> windlass::StartRestoreRequest {
        windlass::StartRestoreRequest::default()
    }

    fn planned(request: &windlass::StartRestoreRequest, metadata: Option<&Metadata>) -> Result<NewVolume, Code> {
        let name = ObjectName::try_from("restored".to_owned()).unwrap();
        plan(request, name, 1 << 30, metadata).map_err(|status| status.code())
    }

    fn exported(mode: Mode, filesystem: Option<&str>) -> Metadata {
        Metadata { mode: Some(mode), filesystem: filesystem.map(str::to_owned), ..Metadata::of_size(1 << 30) }
    }

    #[test]
    fn without_a_wish_the_volume_is_what_was_exported() {
        let xfs = exported(Mode::Filesystem, Some("xfs"));
        let volume = planned(&request(), Some(&xfs)).unwrap();
        assert_eq!((volume.mode, volume.capacity.required()), (VolumeMode::Filesystem(FsType::Xfs), Some(1 << 30)));
        assert_eq!(planned(&request(), Some(&exported(Mode::Block, None))).unwrap().mode, VolumeMode::Block);
        assert_eq!(planned(&request(), None).unwrap_err(), Code::InvalidArgument);
    }

    #[test]
    fn a_raw_image_of_smaller_blocks_is_refused_and_a_file_system_is_not() {
        let of = |mode| Metadata { logical_block_bytes: Some(512), ..exported(mode, None) };
        let refused = |mode, block| check_block_size(Some(&of(mode)), block).is_err();
        assert!(refused(Mode::Block, LogicalBlockSize::B4096));
        assert!(!refused(Mode::Block, LogicalBlockSize::B512));
        assert!(!refused(Mode::Filesystem, LogicalBlockSize::B4096));
        assert!(check_block_size(None, LogicalBlockSize::B4096).is_ok());
    }

    #[test]
    fn a_file_system_that_only_the_request_speaks_of_must_be_there() {
        let ext4 = VolumeMode::Filesystem(FsType::Ext4);
        assert_eq!(claimed(ext4, None), Some(FsType::Ext4));
        assert_eq!(claimed(ext4, Some(&exported(Mode::Block, None))), Some(FsType::Ext4));
        assert_eq!(claimed(ext4, Some(&exported(Mode::Filesystem, Some("ext4")))), None);
        assert_eq!(claimed(VolumeMode::Block, None), None);
    }

    #[test]
    fn a_volume_with_holes_has_a_name_that_says_so() {
        let name = |text: &str| ObjectName::try_from(text.to_owned()).unwrap();
        assert_eq!(damaged_name(&name("data"), 1).as_str(), "data-damaged");
        assert_eq!(damaged_name(&name("data"), 2).as_str(), "data-damaged-2");
        let longest = "\u{e4}".repeat(ObjectName::MAX_BYTES / 2);
        let damaged = damaged_name(&name(&longest), 12);
        assert!(damaged.as_str().ends_with("\u{e4}-damaged-12") && damaged.as_str().len() <= ObjectName::MAX_BYTES);
    }

    #[test]
    fn what_contradicts_the_image_is_refused() {
        let xfs = exported(Mode::Filesystem, Some("xfs"));
        let with = |fs_type: &str, block, capacity_bytes| windlass::StartRestoreRequest {
            fs_type: fs_type.to_owned(),
            block,
            capacity_bytes,
            ..request()
        };
        assert_eq!(planned(&with("ext4", false, 0), Some(&xfs)).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("ext4", false, 0), None).unwrap().mode, VolumeMode::Filesystem(FsType::Ext4));
        assert_eq!(planned(&with("ext4", true, 0), None).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("ntfs", false, 0), None).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("", true, 0), Some(&xfs)).unwrap().mode, VolumeMode::Block);
        assert_eq!(planned(&with("", true, -1), None).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("", true, 4096), None).unwrap_err(), Code::OutOfRange);
        assert_eq!(planned(&with("", true, 2 << 30), None).unwrap().capacity.required(), Some(2 << 30));
    }
}
