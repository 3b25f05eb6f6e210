//! Mount options as mount(2) takes them. Which may be given at all is decided in [`mount_options`].

use nix::mount::MsFlags;

use super::MountError;
use crate::types::{Access, FsType, mount_options};

/// Options, sorted into what mount(2) takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Flags of the mount and of the file system.
    pub flags: MsFlags,
    /// What the file system itself reads.
    pub data: Vec<String>,
}

impl MountOptions {
    /// The options of the file system as mount(2) wants them.
    pub fn data(&self) -> String {
        self.data.join(",")
    }

    /// What the options ask for.
    pub fn access(&self) -> Access {
        if self.flags.contains(MsFlags::MS_RDONLY) { Access::ReadOnly } else { Access::ReadWrite }
    }
}

/// Sorts and checks the options of a mount of `fs_type`. Each string may hold several, separated by commas.
///
/// # Errors
/// [`MountError::Option`], naming the first that is not allowed.
pub fn parse(options: &[String], fs_type: FsType, access: Access) -> Result<MountOptions, MountError> {
    let mut parsed = MountOptions { flags: access_flag(access), data: Vec::new() };
    for option in mount_options::given(options) {
        if let Some((flag, set)) = flag(option) {
            // A read-only request stays one, whatever the options say.
            parsed.flags.set(flag, set);
            continue;
        }
        mount_options::check_one(option, Some(fs_type))?;
        if !parsed.data.iter().any(|present| present == option) {
            parsed.data.push(option.to_owned());
        }
    }
    // A clone has its source's UUID, and both are mounted on one machine.
    if fs_type == FsType::Xfs && !parsed.data.iter().any(|option| option == "nouuid") {
        parsed.data.push("nouuid".to_owned());
    }
    Ok(parsed)
}

/// Sorts and checks the options of a bind mount: flags of the mount; those of the file system were given when it was mounted,
/// and are checked and otherwise ignored, because kubelet passes the same list to both.
///
/// # Errors
/// [`MountError::Option`], naming the first that is not allowed.
pub fn parse_bind(options: &[String], access: Access) -> Result<MsFlags, MountError> {
    mount_options::check(options, None)?;
    let mut flags = access_flag(access);
    for (flag, set) in mount_options::given(options).filter_map(flag) {
        flags.set(flag, set);
    }
    Ok(flags & PER_MOUNT)
}

/// Flags that a bind mount can have on its own; the others belong to the file system.
const PER_MOUNT: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

fn access_flag(access: Access) -> MsFlags {
    match access {
        Access::ReadOnly => MsFlags::MS_RDONLY,
        Access::ReadWrite => MsFlags::empty(),
    }
}

fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "ro" => (MsFlags::MS_RDONLY, true),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "nolazytime" => (MsFlags::MS_LAZYTIME, false),
        "silent" => (MsFlags::MS_SILENT, true),
        "loud" => (MsFlags::MS_SILENT, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mount_options::check;

    /// Whether an option may be given is decided by the list of names, what it does by the bits: neither may lack what the other has.
    #[test]
    fn each_flag_of_the_mount_has_its_bit() {
        for name in mount_options::MOUNT_FLAGS {
            assert!(flag(name).is_some(), "{name}");
        }
        for option in ["defaults", "discard", "nouuid", "compress", "x-any"] {
            assert_eq!(flag(option), None, "{option}");
        }
    }

    fn parse_one(option: &str) -> Result<MountOptions, MountError> {
        parse(&[option.to_owned()], FsType::Ext4, Access::ReadWrite)
    }

    #[test]
    fn flags_and_options_of_the_file_system_are_told_apart() {
        let options = ["noatime,nosuid", "data=ordered", "discard", "rw", "defaults", "data=ordered"].map(str::to_owned);
        let parsed = parse(&options, FsType::Ext4, Access::ReadWrite).unwrap();
        assert_eq!(parsed.flags, MsFlags::MS_NOATIME | MsFlags::MS_NOSUID);
        assert_eq!(parsed.data(), "data=ordered,discard");
    }

    #[test]
    fn xfs_gets_nouuid_once() {
        for given in [vec![], vec!["nouuid".to_owned()]] {
            assert_eq!(parse(&given, FsType::Xfs, Access::ReadWrite).unwrap().data(), "nouuid");
        }
    }

    #[test]
    fn a_read_only_request_stays_read_only() {
        let parsed = parse(&["rw".to_owned()], FsType::Ext4, Access::ReadOnly).unwrap();
        assert_eq!(parsed.access(), Access::ReadOnly);
        assert_eq!(parse_one("ro").unwrap().access(), Access::ReadOnly);
    }

    #[test]
    fn options_that_reach_beyond_the_device_are_refused() {
        for option in [
            "loop",
            "logdev=/dev/sda",
            "rtdev=/dev/sda",
            "journal_path=x",
            "journal_dev=0x801",
            "device=/dev/sda",
            "remount",
            "bind",
            "subvol=/other",
            "subvolid=5",
            "errors=panic",
            "fatal_errors=panic",
            "anything=/etc/passwd",
            "=x",
            "a b",
            "data=ordered\nx",
            "rescue=all",
            "norecovery",
            "nouuid",
            "a\\054b",
            "no-such-option",
            "data=\"ordered\"",
            "usrjquota=\"a,errors=panic,jqfmt=vfsv0,grpjquota=b\"",
            "context=\"a,errors=panic,b\"",
            "context",
            "context=a\"b",
        ] {
            assert!(matches!(parse_one(option), Err(MountError::Option(named)) if named.0 == option), "{option}");
        }
    }

    #[test]
    fn each_file_system_has_options_of_its_own_and_what_people_use_is_among_them() {
        for (fs_type, options) in [
            (
                FsType::Ext4,
                "noatime,discard,data=ordered,commit=30,barrier=1,errors=remount-ro,stripe=256,nodelalloc,user_xattr,acl,dax=never",
            ),
            (
                FsType::Xfs,
                "noatime,nodiscard,nouuid,inode64,logbufs=8,logbsize=256k,allocsize=64m,largeio,swalloc,prjquota,sunit=64,swidth=128",
            ),
            (
                FsType::Btrfs,
                "relatime,compress=zstd:3,compress-force,ssd,nossd,discard=async,space_cache=v2,autodefrag,commit=5,nodatacow",
            ),
        ] {
            let given = [options.to_owned()];
            parse(&given, fs_type, Access::ReadWrite).unwrap();
            check(&given, Some(fs_type)).unwrap();
            check(&given, None).unwrap();
            for other in FsType::ALL.into_iter().filter(|&other| other != fs_type) {
                assert!(check(&given, Some(other)).is_err(), "options of {fs_type} for {other}");
            }
        }
    }

    #[test]
    fn a_security_label_keeps_its_commas() {
        let label = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
        let parsed = parse_one(&format!("noatime,{label},discard")).unwrap();
        assert_eq!(parsed.data, [label, "discard"]);
    }

    #[test]
    fn a_bind_mount_takes_only_what_is_its_own() {
        let options = ["noexec,sync,data=ordered".to_owned()];
        assert_eq!(parse_bind(&options, Access::ReadOnly).unwrap(), MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
        assert!(parse_bind(&["loop".to_owned()], Access::ReadOnly).is_err());
    }
}
