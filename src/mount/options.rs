//! Mount options as StorageClasses and capabilities give them.
//!
//! They come from people with fewer rights than this process. Flags of the mount itself are known by name; everything else is
//! the file system's, and passed on unless it could reach beyond this one device, or stop the machine: another device or
//! file by name or path, another view of the same file system, panics.

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

/// Names that no request may use, whatever their value.
const DENIED: &[&str] = &[
    // Another kind of mount.
    "bind",
    "rbind",
    "move",
    "remount",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "private",
    "rprivate",
    "unbindable",
    "runbindable",
    // What mount(8) would do with other files.
    "loop",
    "offset",
    "sizelimit",
    "encryption",
    "helper",
    "uhelper",
    "verity",
    "source",
    "fd",
    // Another device or file.
    "device",
    "logdev",
    "rtdev",
    "journal_path",
    "journal_dev",
    "subvol",
    "subvolid",
    "sb",
    // Repairs and tests, which an administrator makes by hand.
    "rescue",
    "degraded",
    "recovery",
    "usebackuproot",
    "norecovery",
    "noload",
    "nologreplay",
    "test_dummy_encryption",
    "skip_balance",
    "check_int",
    "check_int_data",
    "check_int_print_mask",
    "debug",
    "abort",
];

/// Options that stop the whole machine.
const DENIED_EXACTLY: &[&str] = &["errors=panic", "fatal_errors=panic"];

/// Words for other programs than the kernel.
const IGNORED: &[&str] = &["defaults", "rw", "auto", "noauto", "_netdev", "nofail"];

/// Sorts and checks the options of a mount of `fs_type`. Each string may hold several, separated by commas.
///
/// # Errors
/// [`MountError::Option`], naming the first that is not allowed.
pub fn parse(options: &[String], fs_type: FsType, access: Access) -> Result<MountOptions, MountError> {
    let mut parsed = MountOptions { flags: access_flag(access), data: Vec::new() };
    for option in options.iter().flat_map(|options| split(options)) {
        if IGNORED.contains(&option) || option.starts_with("x-") {
            continue;
        }
        if let Some((flag, set)) = flag(option) {
            // A read-only request stays one, whatever the options say.
            parsed.flags.set(flag, set);
            continue;
        }
        check(option)?;
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
    // Which file system it is does not matter: its options are dropped.
    let parsed = parse(options, FsType::Ext4, access)?;
    Ok(parsed.flags & PER_MOUNT)
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

fn check(option: &str) -> Result<(), MountError> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let denied = DENIED.contains(&name) || DENIED_EXACTLY.contains(&option);
    // Security labels hold colons and quotes, never slashes; no other option needs a path.
    let odd_name = name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let odd_value = value.bytes().any(|byte| byte == b'/' || byte == b'\\' || byte.is_ascii_control());
    if denied || odd_name || odd_value { Err(MountError::Option(option.to_owned())) } else { Ok(()) }
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
            "a\\054b",
        ] {
            assert!(matches!(parse_one(option), Err(MountError::Option(named)) if named == option), "{option}");
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
