//! Mount options as StorageClasses and capabilities give them: which may be given at all.
//!
//! They come from people with fewer rights than the process that mounts. Flags of the mount itself are known by name, and so are the options
//! of each file system that may be given: those of ext4(5), xfs(5) and btrfs(5) that are about this one file system and no other device, file
//! or machine. What is in no list is refused by its name: other devices (`logdev`), other views (`subvol`), repairs that an administrator makes by
//! hand (`norecovery`), panics (`errors=panic`), and what nobody has thought of.
//!
//! The kernel separates options at commas, whatever quotes are around them; only security labels, which it takes out before, may have both.

use super::FsType;

/// Flags of the mount itself, whatever file system it is of.
pub const MOUNT_FLAGS: &[&str] = &[
    "ro",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "sync",
    "async",
    "dirsync",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
];

/// An option that is not known or not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mount option `{0}` is not known or not allowed")]
pub struct ForbiddenOption(pub String);

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

/// Checks the options of a mount, where the file system is not known (`None`) against those of all of them. Each string may hold several,
/// separated by commas.
///
/// # Errors
/// The first that is not allowed.
pub fn check(options: &[String], fs_type: Option<FsType>) -> Result<(), ForbiddenOption> {
    let of_file_system = |option: &&str| !MOUNT_FLAGS.contains(option);
    given(options).filter(of_file_system).try_for_each(|option| check_one(option, fs_type))
}

/// The options one by one, without those that are for other programs than the kernel.
pub fn given(options: &[String]) -> impl Iterator<Item = &str> {
    options.iter().flat_map(|options| split(options)).filter(|option| !is_ignored(option))
}

/// Checks one option of a file system.
///
/// # Errors
/// When it is not allowed.
pub fn check_one(option: &str, fs_type: Option<FsType>) -> Result<(), ForbiddenOption> {
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
    if is_allowed { Ok(()) } else { Err(ForbiddenOption(option.to_owned())) }
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

fn is_ignored(option: &str) -> bool {
    IGNORED.contains(&option) || option.starts_with("x-")
}
