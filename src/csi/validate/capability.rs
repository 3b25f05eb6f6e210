//! Volume capabilities.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::volume_capability::AccessType as WireAccessType;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;

use crate::csi::error::RequestError;
use crate::types::{Access, AccessMode, FsType, VolumeMode, mount_options};

use super::MAX_MAP_BYTES;

/// How a volume is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessType {
    /// As a device node.
    Block,
    /// As a mounted file system.
    Mount {
        /// The type asked for; `None` leaves the choice to us.
        fs_type: Option<FsType>,
        /// Mount flags.
        flags: Vec<String>,
    },
}

impl AccessType {
    /// The mount flags; none for a device node.
    pub fn flags(&self) -> &[String] {
        match self {
            Self::Block => &[],
            Self::Mount { flags, .. } => flags,
        }
    }

    /// Whether a volume that was made for this mode can be given out like this. The mode belongs to each publication, not to the volume:
    /// only another type of file system than the one it was made for does not fit. What a volume made for a device node holds is seen
    /// when it is mounted.
    pub fn fits(&self, made_for: VolumeMode) -> bool {
        match (self, made_for) {
            (Self::Block, _) | (Self::Mount { .. }, VolumeMode::Block) => true,
            (Self::Mount { fs_type, .. }, VolumeMode::Filesystem(has)) => fs_type.is_none_or(|wanted| wanted == has),
        }
    }
}

/// One checked capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Device node or file system.
    pub access_type: AccessType,
    /// Who may use it how.
    pub access_mode: AccessMode,
}

/// What an access mode lets its user do.
pub fn access_of(mode: AccessMode) -> Access {
    match mode {
        AccessMode::SingleNodeReaderOnly | AccessMode::MultiNodeReaderOnly => Access::ReadOnly,
        AccessMode::SingleNodeWriter | AccessMode::SingleNodeSingleWriter | AccessMode::SingleNodeMultiWriter => {
            Access::ReadWrite
        }
    }
}

/// Whether an access mode allows one target path only.
pub fn is_exclusive(mode: AccessMode) -> bool {
    match mode {
        AccessMode::SingleNodeWriter | AccessMode::SingleNodeSingleWriter => true,
        AccessMode::SingleNodeReaderOnly | AccessMode::MultiNodeReaderOnly | AccessMode::SingleNodeMultiWriter => false,
    }
}

/// Whether a volume that was made for some access modes may be given out in another. What a mode needs counts, to write or not, and
/// not its name: a claim may be moved from one to another. Readers on several nodes stay apart, for they rely on nobody writing.
pub fn serves(made_for: &[AccessMode], wanted: AccessMode) -> bool {
    let is_apart = |mode: AccessMode| mode == AccessMode::MultiNodeReaderOnly;
    made_for.iter().any(|&made| {
        is_apart(made) == is_apart(wanted) && (access_of(made) == Access::ReadWrite || access_of(wanted) == Access::ReadOnly)
    })
}

fn access_mode(field: &str, mode: Option<&proto::volume_capability::AccessMode>) -> Result<AccessMode, RequestError> {
    let field = format!("{field}.access_mode");
    let Some(mode) = mode else { return Err(RequestError::invalid(field, "must be set")) };
    match Mode::try_from(mode.mode) {
        Ok(Mode::SingleNodeWriter) => Ok(AccessMode::SingleNodeWriter),
        Ok(Mode::SingleNodeReaderOnly) => Ok(AccessMode::SingleNodeReaderOnly),
        Ok(Mode::MultiNodeReaderOnly) => Ok(AccessMode::MultiNodeReaderOnly),
        Ok(Mode::SingleNodeSingleWriter) => Ok(AccessMode::SingleNodeSingleWriter),
        Ok(Mode::SingleNodeMultiWriter) => Ok(AccessMode::SingleNodeMultiWriter),
        Ok(unsupported @ (Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)) => Err(RequestError::unsupported(
            field,
            format!("{} is not supported: a volume is on one node", unsupported.as_str_name()),
        )),
        Ok(Mode::Unknown) => Err(RequestError::invalid(field, "must not be UNKNOWN")),
        Err(_) => Err(RequestError::invalid(field, format!("{} is not an access mode", mode.mode))),
    }
}

fn access_type(field: &str, access_type: Option<&WireAccessType>) -> Result<AccessType, RequestError> {
    let mount = match access_type {
        None => return Err(RequestError::invalid(format!("{field}.access_type"), "must be block or mount")),
        Some(WireAccessType::Block(_)) => return Ok(AccessType::Block),
        Some(WireAccessType::Mount(mount)) => mount,
    };
    if !mount.volume_mount_group.is_empty() {
        let reason = "is not supported: the orchestrator sets the group of the files";
        return Err(RequestError::unsupported(format!("{field}.mount.volume_mount_group"), reason));
    }
    let size: usize = mount.mount_flags.iter().map(String::len).sum();
    let flags_field = || format!("{field}.mount.mount_flags");
    if size > MAX_MAP_BYTES {
        return Err(RequestError::invalid(flags_field(), format!("must have at most {MAX_MAP_BYTES} bytes, have {size}")));
    }
    if mount.mount_flags.iter().any(|flag| flag.is_empty() || flag.contains('\0')) {
        return Err(RequestError::invalid(flags_field(), "must not be empty or contain NUL"));
    }
    let fs_type = fs_type(&format!("{field}.mount.fs_type"), &mount.fs_type)?;
    mount_options::check(&mount.mount_flags, fs_type).map_err(|error| RequestError::invalid(flags_field(), error.to_string()))?;
    Ok(AccessType::Mount { fs_type, flags: mount.mount_flags.clone() })
}

/// The file system of a request; the empty string leaves the choice to us.
///
/// # Errors
/// Invalid when this driver cannot make it.
pub fn fs_type(field: &str, value: &str) -> Result<Option<FsType>, RequestError> {
    if value.is_empty() {
        return Ok(None);
    }
    if value.len() > super::MAX_STRING_BYTES {
        return Err(RequestError::invalid(field.to_owned(), "must have at most 128 bytes"));
    }
    value
        .parse()
        .map(Some)
        .map_err(|error: crate::types::fs::UnknownFsType| RequestError::invalid(field.to_owned(), error.to_string()))
}

/// One capability of a request.
///
/// # Errors
/// Invalid when a part is missing or malformed; unsupported for the access modes of several nodes that write.
pub fn capability(field: &str, capability: Option<&proto::VolumeCapability>) -> Result<Capability, RequestError> {
    let Some(capability) = capability else { return Err(RequestError::invalid(field.to_owned(), "must be set")) };
    Ok(Capability {
        access_type: access_type(field, capability.access_type.as_ref())?,
        access_mode: access_mode(field, capability.access_mode.as_ref())?,
    })
}

/// All capabilities of a volume, which agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilitySet {
    /// Device node or file system; its flags are those of all capabilities, each once.
    pub access_type: AccessType,
    /// Access modes, ascending, each once.
    pub access_modes: Vec<AccessMode>,
}

const SET_FIELD: &str = "volume_capabilities";

/// The capabilities of a volume. A volume is given out in one way: device nodes and file systems, two types of file system,
/// and readers on several nodes beside a writer do not go together.
///
/// # Errors
/// Invalid when there is none, one is malformed, or two do not go together; unsupported as for [`capability`].
pub fn capabilities(capabilities: &[proto::VolumeCapability]) -> Result<CapabilitySet, RequestError> {
    let mut checked =
        capabilities.iter().enumerate().map(|(index, entry)| capability(&format!("{SET_FIELD}[{index}]"), Some(entry)));
    let first = checked.next().ok_or_else(|| RequestError::invalid(SET_FIELD, "must not be empty"))??;
    let mut set = CapabilitySet { access_type: first.access_type, access_modes: vec![first.access_mode] };
    for next in checked {
        let next = next?;
        set.access_type = join(set.access_type, next.access_type)?;
        set.access_modes.push(next.access_mode);
    }
    set.access_modes.sort_unstable();
    set.access_modes.dedup();
    if set.access_modes.contains(&AccessMode::MultiNodeReaderOnly)
        && set.access_modes.iter().any(|&mode| access_of(mode) == Access::ReadWrite)
    {
        return Err(RequestError::invalid(
            SET_FIELD,
            "MULTI_NODE_READER_ONLY does not go together with an access mode that writes",
        ));
    }
    Ok(set)
}

fn join(one: AccessType, other: AccessType) -> Result<AccessType, RequestError> {
    match (one, other) {
        (AccessType::Block, AccessType::Block) => Ok(AccessType::Block),
        (AccessType::Mount { fs_type: one, mut flags }, AccessType::Mount { fs_type: other, flags: more }) => {
            let fs_type = match (one, other) {
                (Some(one), Some(other)) if one != other => {
                    return Err(RequestError::invalid(SET_FIELD, "ask for more than one type of file system"));
                }
                (one, other) => one.or(other),
            };
            for flag in more {
                if !flags.contains(&flag) {
                    flags.push(flag);
                }
            }
            Ok(AccessType::Mount { fs_type, flags })
        }
        (AccessType::Block, AccessType::Mount { .. }) | (AccessType::Mount { .. }, AccessType::Block) => {
            Err(RequestError::invalid(SET_FIELD, "ask for both block and mount"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::error::Fault;

    fn mount(fs_type: &str, mode: Mode) -> proto::VolumeCapability {
        proto::VolumeCapability {
            access_type: Some(WireAccessType::Mount(proto::volume_capability::MountVolume {
                fs_type: fs_type.to_owned(),
                mount_flags: vec!["noatime".to_owned()],
                volume_mount_group: String::new(),
            })),
            access_mode: Some(proto::volume_capability::AccessMode { mode: mode.into() }),
        }
    }

    fn block(mode: Mode) -> proto::VolumeCapability {
        let access_type = Some(WireAccessType::Block(proto::volume_capability::BlockVolume {}));
        proto::VolumeCapability { access_type, ..mount("", mode) }
    }

    #[test]
    fn capabilities_of_one_volume_agree() {
        let set = capabilities(&[mount("", Mode::SingleNodeWriter), mount("xfs", Mode::SingleNodeReaderOnly)]).unwrap();
        assert_eq!(set.access_type, AccessType::Mount { fs_type: Some(FsType::Xfs), flags: vec!["noatime".to_owned()] });
        assert_eq!(set.access_modes, [AccessMode::SingleNodeWriter, AccessMode::SingleNodeReaderOnly]);
        for bad in [
            vec![],
            vec![mount("", Mode::SingleNodeWriter), block(Mode::SingleNodeWriter)],
            vec![mount("ext4", Mode::SingleNodeWriter), mount("xfs", Mode::SingleNodeWriter)],
            vec![mount("", Mode::MultiNodeReaderOnly), mount("", Mode::SingleNodeMultiWriter)],
            vec![mount("ntfs", Mode::SingleNodeWriter)],
            vec![mount("", Mode::Unknown)],
        ] {
            assert_eq!(capabilities(&bad).unwrap_err().fault, Fault::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn mount_flags_are_those_of_the_file_system_and_a_refusal_names_the_one() {
        let with = |fs_type: &str, flag: &str| {
            let mut capability = mount(fs_type, Mode::SingleNodeWriter);
            let Some(WireAccessType::Mount(mount)) = &mut capability.access_type else { unreachable!() };
            mount.mount_flags = vec!["noatime".to_owned(), flag.to_owned()];
            capabilities(&[capability])
        };
        with("btrfs", "compress=zstd").unwrap();
        with("", "compress=zstd").unwrap();
        for (fs_type, flag) in
            [("ext4", "compress=zstd"), ("", "logdev=/dev/sda"), ("xfs", "norecovery"), ("ext4", "errors=panic")]
        {
            let error = with(fs_type, flag).unwrap_err();
            assert_eq!((error.fault, error.field.as_ref()), (Fault::Invalid, "volume_capabilities[0].mount.mount_flags"));
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    #[test]
    fn a_mode_is_served_by_what_it_needs() {
        use AccessMode::*;
        let writers = [SingleNodeWriter, SingleNodeSingleWriter, SingleNodeMultiWriter];
        for made in writers {
            assert!(writers.into_iter().all(|wanted| serves(&[made], wanted)));
            assert!(serves(&[made], SingleNodeReaderOnly) && !serves(&[made], MultiNodeReaderOnly));
            assert!(!serves(&[SingleNodeReaderOnly], made) && !serves(&[MultiNodeReaderOnly], made));
            assert!(serves(&[SingleNodeReaderOnly, made], made));
        }
        assert!(serves(&[MultiNodeReaderOnly], MultiNodeReaderOnly) && serves(&[SingleNodeReaderOnly], SingleNodeReaderOnly));
        assert!(!serves(&[MultiNodeReaderOnly], SingleNodeReaderOnly) && !serves(&[], SingleNodeReaderOnly));
    }

    #[test]
    fn a_volume_made_for_one_mode_fits_the_other() {
        let (block, mount) = (AccessType::Block, |fs_type| AccessType::Mount { fs_type, flags: Vec::new() });
        for made in [VolumeMode::Block, VolumeMode::Filesystem(FsType::Xfs)] {
            assert!(block.fits(made) && mount(None).fits(made) && mount(Some(FsType::Xfs)).fits(made));
        }
        assert!(mount(Some(FsType::Ext4)).fits(VolumeMode::Block));
        assert!(!mount(Some(FsType::Ext4)).fits(VolumeMode::Filesystem(FsType::Xfs)));
    }

    #[test]
    fn writers_on_several_nodes_are_unsupported() {
        for mode in [Mode::MultiNodeMultiWriter, Mode::MultiNodeSingleWriter] {
            assert_eq!(capabilities(&[block(mode)]).unwrap_err().fault, Fault::Unsupported);
        }
    }

    #[test]
    fn a_refusal_names_the_entry() {
        let mut bad = block(Mode::SingleNodeWriter);
        bad.access_mode = None;
        let error = capabilities(&[block(Mode::SingleNodeWriter), bad]).unwrap_err();
        assert_eq!(error.field, "volume_capabilities[1].access_mode");
    }
}
