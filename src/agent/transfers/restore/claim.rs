//! What a CreateVolume makes of an image: the volume that the node would have made of the snapshot itself.

use tonic::Status;

use crate::csi::validate::capability::{AccessType, CapabilitySet};
use crate::csi::validate::parameters::VolumeParameters;
use crate::transfer::metadata::Metadata;
use crate::types::{CapacityRange, FsType, NewVolume, ObjectName, SnapshotHandle, VolumeMode, VolumeSize};

/// Made for where neither the request nor the image names a file system: as by the node.
const DEFAULT_FS_TYPE: FsType = FsType::Ext4;

/// A checked CreateVolume whose content comes from a repository.
pub(in crate::agent) struct VolumeClaim {
    /// The snapshot of its content; `None` until that is chosen.
    pub(in crate::agent) source: Option<SnapshotHandle>,
    pub(in crate::agent) capacity: CapacityRange,
    pub(in crate::agent) capabilities: CapabilitySet,
    pub(in crate::agent) parameters: VolumeParameters,
}

impl VolumeClaim {
    /// The volume to make of an image of this size.
    ///
    /// # Errors
    /// OUT_OF_RANGE when the image is larger than the volume may be; INVALID_ARGUMENT for another file system than the image holds.
    pub(super) fn plan(&self, name: ObjectName, image_bytes: u64, metadata: Option<&Metadata>) -> Result<NewVolume, Status> {
        let image =
            VolumeSize::at_least(image_bytes).map_err(|error| Status::out_of_range(format!("capacity_range: {error}")))?;
        let too_small = self.capacity.required().is_some_and(|required| required < image.bytes());
        let size = self.capacity.choose(image, image).filter(|_| !too_small).ok_or_else(|| {
            Status::out_of_range(format!("capacity_range: must be at least {}, the size of the snapshot", image.bytes()))
        })?;
        Ok(NewVolume {
            name,
            capacity: CapacityRange::exactly(size),
            minimum: image,
            mode: self.mode(metadata)?,
            access_modes: self.capabilities.access_modes.clone(),
            mount_flags: self.capabilities.access_type.flags().to_vec(),
            parameters: self.parameters.recorded.clone(),
            checksum: self.parameters.checksum,
            source: None,
            foreign_source: self.source.map(|source| source.to_string()),
            kubernetes: self.parameters.kubernetes.clone(),
        })
    }

    /// The mode that is asked for. It may be another than the snapshot's: what the device holds is found out when it is staged.
    fn mode(&self, metadata: Option<&Metadata>) -> Result<VolumeMode, Status> {
        let AccessType::Mount { fs_type, .. } = &self.capabilities.access_type else { return Ok(VolumeMode::Block) };
        let held = metadata.and_then(|metadata| metadata.filesystem.as_deref()).and_then(|name| name.parse::<FsType>().ok());
        match (fs_type.or(self.parameters.fs_type), held) {
            (Some(wanted), Some(held)) if wanted != held => Err(Status::invalid_argument(format!(
                "volume_capabilities.mount.fs_type: asks for {wanted}, but the snapshot holds {held}"
            ))),
            (wanted, held) => Ok(VolumeMode::Filesystem(wanted.or(held).unwrap_or(DEFAULT_FS_TYPE))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::transfer::metadata::Mode;
    use crate::types::{AccessMode, PoolId, SnapshotId};

    const IMAGE: u64 = 64 << 20;

    fn claim(access_type: AccessType, required: Option<u64>, limit: Option<u64>) -> VolumeClaim {
        VolumeClaim {
            source: Some(SnapshotHandle { pool: PoolId::random(), snapshot: SnapshotId::random() }),
            capacity: CapacityRange::new(required, limit).unwrap(),
            capabilities: CapabilitySet { access_type, access_modes: vec![AccessMode::SingleNodeWriter] },
            parameters: VolumeParameters::default(),
        }
    }

    fn planned(claim: &VolumeClaim, filesystem: Option<&str>) -> Result<NewVolume, Code> {
        let mode = if filesystem.is_some() { Mode::Filesystem } else { Mode::Block };
        let metadata = Metadata { mode: Some(mode), filesystem: filesystem.map(str::to_owned), ..Metadata::of_size(IMAGE) };
        claim.plan("new".to_owned().try_into().unwrap(), IMAGE, Some(&metadata)).map_err(|status| status.code())
    }

    #[test]
    fn a_volume_is_as_large_as_its_image_or_as_was_asked_for_and_never_smaller() {
        let size = |required, limit| {
            let volume = planned(&claim(AccessType::Block, required, limit), None)?;
            Ok::<_, Code>(volume.capacity.required().unwrap())
        };
        assert_eq!(size(None, None), Ok(IMAGE));
        assert_eq!(size(Some(IMAGE), None), Ok(IMAGE));
        assert_eq!(size(Some(2 * IMAGE), None), Ok(2 * IMAGE));
        assert_eq!(size(None, Some(3 * IMAGE)), Ok(IMAGE));
        assert_eq!(size(Some(IMAGE / 2), None), Err(Code::OutOfRange));
        assert_eq!(size(None, Some(IMAGE / 2)), Err(Code::OutOfRange));
    }

    #[test]
    fn another_mode_is_given_and_another_file_system_is_not() {
        let mount = |fs_type| claim(AccessType::Mount { fs_type, flags: Vec::new() }, None, None);
        let mode = |claim: &VolumeClaim, held| planned(claim, held).map(|volume| volume.mode);
        assert_eq!(mode(&mount(None), Some("xfs")), Ok(VolumeMode::Filesystem(FsType::Xfs)));
        assert_eq!(mode(&mount(Some(FsType::Ext4)), Some("xfs")), Err(Code::InvalidArgument));
        assert_eq!(mode(&mount(Some(FsType::Xfs)), None), Ok(VolumeMode::Filesystem(FsType::Xfs)));
        assert_eq!(mode(&claim(AccessType::Block, None, None), Some("xfs")), Ok(VolumeMode::Block));
        let volume = planned(&mount(None), Some("xfs")).unwrap();
        assert!(volume.source.is_none() && volume.foreign_source.is_some());
    }
}
