//! Mount options as StorageClasses and capabilities give them.
//!
//! They come from people with fewer rights than this process. Flags of the mount itself are known by name, and so are the options of each file
//! system that may be given: those of ext4(5), xfs(5) and btrfs(5) that are about this one file system and no other device, file
//! or machine. What is in no list is refused by its name: other devices (`logdev`), other views (`subvol`), repairs that an administrator makes by
//! hand (`norecovery`), panics (`errors=panic`), and what nobody has thought of.
//!
//! The kernel separates options at commas, whatever quotes are around them; only security labels, which it takes out before, may have both.

use nix::mount::MsFlags;

use super::MountError;
use crate::block::Access;
use crate::types::FsType;

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

/// Of ext4.
const EXT4: &[&str] = &[
    "acl",
    "noacl",
    "user_xattr",
    "nouser_xattr",
    "bsddf",
    "minixdf",
    "grpid",
    "bsdgroups",
    "nogrpid",
    "sysvgroups",
    "resuid",
    "resgid",
    "errors",
    "data",
    "data_err",
    "commit",
    "barrier",
    "nobarrier",
    "journal_checksum",
    "nojournal_checksum",
    "journal_async_commit",
    "journal_ioprio",
    "delalloc",
    "nodelalloc",
    "auto_da_alloc",
    "noauto_da_alloc",
    "discard",
    "nodiscard",
    "stripe",
    "inode_readahead_blks",
    "max_batch_time",
    "min_batch_time",
    "init_itable",
    "noinit_itable",
    "dioread_lock",
    "dioread_nolock",
    "nodioread_nolock",
    "block_validity",
    "noblock_validity",
    "max_dir_size_kb",
    "quota",
    "noquota",
    "usrquota",
    "grpquota",
    "prjquota",
    "i_version",
    "iversion",
    "noiversion",
    "nombcache",
    "no_mbcache",
    "prefetch_block_bitmaps",
    "no_prefetch_block_bitmaps",
    "mb_optimize_scan",
    "dax",
    "inlinecrypt",
    "nouid32",
];

/// Of XFS.
const XFS: &[&str] = &[
    "allocsize",
    "attr2",
    "noattr2",
    "dax",
    "discard",
    "nodiscard",
    "grpid",
    "bsdgroups",
    "nogrpid",
    "sysvgroups",
    "filestreams",
    "ikeep",
    "noikeep",
    "inode32",
    "inode64",
    "largeio",
    "nolargeio",
    "logbufs",
    "logbsize",
    "lifetime",
    "nolifetime",
    "noalign",
    "nouuid",
    "noquota",
    "quota",
    "uquota",
    "usrquota",
    "uqnoenforce",
    "gquota",
    "grpquota",
    "gqnoenforce",
    "pquota",
    "prjquota",
    "pqnoenforce",
    "qnoenforce",
    "sunit",
    "swidth",
    "swalloc",
    "wsync",
    "max_atomic_write",
];

/// Of Btrfs.
const BTRFS: &[&str] = &[
    "acl",
    "noacl",
    "autodefrag",
    "noautodefrag",
    "barrier",
    "nobarrier",
    "clear_cache",
    "commit",
    "compress",
    "compress-force",
    "datacow",
    "nodatacow",
    "datasum",
    "nodatasum",
    "discard",
    "nodiscard",
    "enospc_debug",
    "noenospc_debug",
    "flushoncommit",
    "noflushoncommit",
    "max_inline",
    "metadata_ratio",
    "space_cache",
    "nospace_cache",
    "ssd",
    "ssd_spread",
    "nossd",
    "nossd_spread",
    "thread_pool",
    "treelog",
    "notreelog",
    "user_subvol_rm_allowed",
];

/// Labels of SELinux, for every file system. The kernel takes them out of the options with their quotes, before it separates the rest.
const LABELS: &[&str] = &["context", "fscontext", "defcontext", "rootcontext"];

fn allowed(fs_type: FsType) -> &'static [&'static str] {
    match fs_type {
        FsType::Ext4 => EXT4,
        FsType::Xfs => XFS,
        FsType::Btrfs => BTRFS,
    }
}

/// Stops the whole machine at an error of one file system.
const PANICS: &str = "errors=panic";

/// Words for other programs than the kernel.
const IGNORED: &[&str] = &["defaults", "rw", "auto", "noauto", "_netdev", "nofail"];

/// Sorts and checks the options of a mount of `fs_type`. Each string may hold several, separated by commas.
///
/// # Errors
/// [`MountError::Option`], naming the first that is not allowed.
pub fn parse(options: &[String], fs_type: FsType, access: Access) -> Result<MountOptions, MountError> {
    let mut parsed = MountOptions { flags: access_flag(access), data: Vec::new() };
    for option in options.iter().flat_map(|options| split(options)) {
        if is_ignored(option) {
            continue;
        }
        if let Some((flag, set)) = flag(option) {
            // A read-only request stays one, whatever the options say.
            parsed.flags.set(flag, set);
            continue;
        }
        check_one(option, Some(fs_type))?;
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

/// Checks the options of a mount, where the file system is not known (`None`) against those of all of them.
///
/// # Errors
/// [`MountError::Option`], naming the first that is not allowed.
pub fn check(options: &[String], fs_type: Option<FsType>) -> Result<(), MountError> {
    let given = options.iter().flat_map(|options| split(options));
    given.filter(|option| !is_ignored(option) && flag(option).is_none()).try_for_each(|option| check_one(option, fs_type))
}

/// Sorts and checks the options of a bind mount: flags of the mount; those of the file system were given when it was mounted,
/// and are checked and otherwise ignored, because kubelet passes the same list to both.
///
/// # Errors
/// [`MountError::Option`], naming the first that is not allowed.
pub fn parse_bind(options: &[String], access: Access) -> Result<MsFlags, MountError> {
    check(options, None)?;
    let mut flags = access_flag(access);
    for (flag, set) in options.iter().flat_map(|options| split(options)).filter_map(flag) {
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

fn is_ignored(option: &str) -> bool {
    IGNORED.contains(&option) || option.starts_with("x-")
}

fn check_one(option: &str, fs_type: Option<FsType>) -> Result<(), MountError> {
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    let is_made_of =
        |value: &str, others: &[u8]| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
    let is_allowed = if LABELS.contains(&name) {
        value.is_some_and(|value| {
            let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            is_made_of(quoted.unwrap_or(value), b"_-.:,")
        })
    } else {
        let is_listed = |fs_type| allowed(fs_type).contains(&name);
        let is_known = fs_type.map_or_else(|| FsType::ALL.into_iter().any(is_listed), is_listed);
        is_known && option != PANICS && is_made_of(value.unwrap_or_default(), b"_-.:")
    };
    if is_allowed { Ok(()) } else { Err(MountError::Option(option.to_owned())) }
}

/// Splits at commas outside of double quotes: SELinux labels have commas in them.
fn split(options: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, byte) in options.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(&options[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&options[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(matches!(parse_one(option), Err(MountError::Option(named)) if named == option), "{option}");
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
